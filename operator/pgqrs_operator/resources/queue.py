"""`PgqrsQueue`: a queue that somebody declares, and what the operator reports about it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from pgqrs import duration, errors, names
from pgqrs.models import QueuePolicy
from pgqrs_operator.resources.common import Conditions, Duration, Model, ObjectName

_LEASE = (timedelta(seconds=1), timedelta(hours=12))
#: Three times the heartbeats' interval at least: one that is late says nothing.
_HEARTBEAT = (timedelta(seconds=15), timedelta(hours=24))


class InvalidSpecError(ValueError):
    """A value passed the schema but is not allowed; the message names the field, the value and what is allowed."""


class SecretRef(Model):
    """A key of a Secret in the queue's own namespace."""

    name: ObjectName = Field(default="pgqrs", description="Name of the Secret.")
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="dsn", description="Key in the Secret; `uri` in the Secrets of CloudNativePG."
    )


class Connection(Model):
    """Where the queue's tables are."""

    secret_ref: SecretRef = Field(
        default=SecretRef(),
        description="The database's address, postgresql://USER:PASSWORD@HOST:PORT/DATABASE, in a Secret.",
    )
    schema_: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}$", max_length=63)] = Field(
        default="public", alias="schema", description="The schema of the tables."
    )
    manage_schema: bool = Field(
        default=True, description="Whether the operator installs and upgrades the tables; false only checks them."
    )


class QueueSpec(Model):
    """What a team declares about a queue. Everything has a default."""

    queue_name: Annotated[str, Field(min_length=1, max_length=names.MAX_QUEUE_NAME_LENGTH)] | None = Field(
        default=None,
        description="Name of the queue in the database; the resource's own name if absent. Cannot be changed.",
    )
    connection: Connection = Field(default=Connection(), description="The database.")
    paused: bool = Field(
        default=False, description="While true, no worker of this library is handed a message of this queue."
    )
    lease_duration: Duration = Field(
        default="30s",
        description="How long a message belongs to the worker that took it, 1s to 12h, such as 30s or 1h30m.",
    )
    max_reads: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=5, description="A message that was taken this often and comes back is dead-lettered."
    )
    heartbeat_timeout: Duration = Field(
        default="60s", description="A worker that is silent for longer is stopped and loses its messages, 15s to 24h."
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description=(
            "What happens to the queue in the database when this resource is deleted. Retain leaves it as it is; "
            "Delete waits until no live message is left and then removes it."
        ),
    )

    def policy(self, name: str) -> QueuePolicy:
        """Give what the queue's row has to say.

        Args:
            name: the queue's name in the database.

        Raises:
            InvalidSpecError: a value is out of range.
        """
        try:
            names.queue_name(name)
        except errors.ValidationError as error:
            raise InvalidSpecError(str(error)) from error
        return QueuePolicy(
            paused=self.paused,
            lease_duration=_bounded(self.lease_duration, "spec.leaseDuration", *_LEASE),
            read_limit=self.max_reads,
            heartbeat_timeout=_bounded(self.heartbeat_timeout, "spec.heartbeatTimeout", *_HEARTBEAT),
        )


def _bounded(text: str, field: str, low: timedelta, high: timedelta) -> timedelta:
    try:
        value = duration.parse(text, field=field)
    except errors.ValidationError as error:
        raise InvalidSpecError(str(error)) from error
    if not low <= value <= high:
        message = f"{field} is {text}; allowed are {duration.render(low)} to {duration.render(high)}."
        raise InvalidSpecError(message)
    return value


class MessageCounts(Model):
    """How many messages the queue has; each is counted once."""

    ready: int = Field(default=0, ge=0, description="Waiting for a worker now.")
    delayed: int = Field(default=0, ge=0, description="Not to be handed out before a later time.")
    leased: int = Field(default=0, ge=0, description="With a worker now.")
    dead: int = Field(default=0, ge=0, description="Dead-lettered.")


class WorkerCounts(Model):
    """How many workers the queue has."""

    ready: int = Field(default=0, ge=0, description="Working or waiting for messages.")
    suspended: int = Field(default=0, ge=0, description="Paused, or draining.")
    stopped: int = Field(default=0, ge=0, description="Ended, and kept for their history.")


class QueueStatus(Model):
    """What the operator found in the database."""

    conditions: Conditions | None = None
    observed_generation: int | None = Field(default=None, ge=0, description="The generation that was looked at last.")
    queue_name: Annotated[str, Field(max_length=names.MAX_QUEUE_NAME_LENGTH)] | None = Field(
        default=None, description="The queue's name in the database."
    )
    queue_id: int | None = Field(default=None, description="The queue's id in the database.")
    messages: MessageCounts | None = Field(default=None, description="Messages, counted every 10 seconds at most.")
    workers: WorkerCounts | None = Field(default=None, description="Workers, counted every 10 seconds at most.")
