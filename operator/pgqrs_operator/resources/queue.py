"""`PgqrsQueue`: a queue that somebody declares, and what the operator reports about it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from pgqrs import duration, errors, names
from pgqrs.backoff import Backoff
from pgqrs.models import QueuePolicy, QueueRetention
from pgqrs_operator.resources.common import Conditions, Duration, Model, Moment, ObjectName, SecretDataKey

_LEASE = (timedelta(seconds=1), timedelta(hours=12))
#: Three times the heartbeats' interval at least: one that is late says nothing.
_HEARTBEAT = (timedelta(seconds=15), timedelta(hours=24))
_RETENTION = (timedelta(0), timedelta(days=36_500))
_DELAY = (timedelta(0), timedelta(days=30))
_WINDOW = (timedelta(0), timedelta(days=30))
#: What the library takes, where it can be said in a schema: printable, no blank at either end.
_QUEUE_NAME = r"^[^\pC\pZ]( *[^\pC\pZ])*$"


class InvalidSpecError(ValueError):
    """A value passed the schema but is not allowed; the message names the field, the value and what is allowed."""


class SecretRef(Model):
    """A key of a Secret in the queue's own namespace."""

    name: ObjectName = Field(default="pgqrs", description="Name of the Secret.")
    key: SecretDataKey = Field(
        default="dsn", description="Key in the Secret, such as `uri` in the Secrets of CloudNativePG."
    )


class Connection(Model):
    """Where the queue's tables are."""

    secret_ref: SecretRef = Field(
        default=SecretRef(),
        description="The Secret with the database's address, postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
    )
    schema_: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}$", max_length=63)] = Field(
        default="public", alias="schema", description="The PostgreSQL schema of the tables. It has to exist."
    )
    manage_schema: bool = Field(
        default=True,
        description=(
            "Whether the operator installs and upgrades the tables. If false it only checks them, and says in the "
            "conditions what is missing."
        ),
    )


class Retry(Model):
    """When a message is tried again that a handler failed on."""

    first_delay: Duration = Field(default="1s", description="The delay after the first failure, 0s to 30d.")
    factor: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=4, description="How many times as long each further delay is as the one before, 1 to 1000."
    )
    max_delay: Duration = Field(default="1h", description="No delay is longer than this, 0s to 30d.")


class Deduplication(Model):
    """When a deduplication key, which a sender may give, is free again."""

    window: Duration = Field(
        default="0s",
        description=(
            "For how long after a message was archived its key is still taken, 0s to 30d. A key is always taken while "
            "its message is live. Messages that are dropped instead of archived free it at once."
        ),
    )


class Retention(Model):
    """How long what is over is kept."""

    archived_messages: Duration | None = Field(
        default=None,
        description=(
            "How long a message is kept after it was archived, such as 7d, and at least for deduplication.window; "
            "for ever if absent."
        ),
    )
    dead_letters: Duration | None = Field(
        default=None, description="How long a dead letter is kept after its death, such as 90d; for ever if absent."
    )
    stopped_workers: Duration | None = Field(
        default=None,
        description="How long the row of a worker is kept after it was stopped, such as 30d; for ever if absent.",
    )


class QueueSpec(Model):
    """What a team declares about a queue. Everything has a default."""

    queue_name: (
        Annotated[str, Field(min_length=1, max_length=names.MAX_QUEUE_NAME_LENGTH, pattern=_QUEUE_NAME)] | None
    ) = Field(
        default=None,
        description="Name of the queue in the database; the name of this resource if absent. Cannot be changed.",
    )
    connection: Connection = Field(default=Connection(), description="The database and the schema of the queue.")
    paused: bool = Field(
        default=False,
        description=(
            "While true no worker of this library is handed a message of this queue; what they hold is finished, and "
            "sending goes on."
        ),
    )
    lease_duration: Duration = Field(
        default="30s",
        description=(
            "How long a message belongs to the worker that took it, 1s to 12h, such as 1h30m. Consumer.run renews "
            "leases in time; who takes messages by other means must be done within it, or others get them."
        ),
    )
    max_reads: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=5,
        description="How often a message is taken at most; one that comes back after that becomes a dead letter.",
    )
    max_deaths: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=3,
        description=(
            "How many processes may die while they hold a message, such as by running out of memory; after that many "
            "it becomes a dead letter that says how the last container ended."
        ),
    )
    heartbeat_timeout: Duration = Field(
        default="60s",
        description=(
            "A worker that sends no heartbeat for longer is stopped and what it holds is given to others, 15s to 24h. "
            "Workers whose pod has ended are not waited for."
        ),
    )
    retry: Retry = Field(
        default=Retry(),
        description=(
            "When a message is tried again that a handler of Consumer.run failed on, unless the app itself says so. Up "
            "to half of each delay is taken away by chance, so that what failed together comes apart."
        ),
    )
    deduplication: Deduplication = Field(
        default=Deduplication(),
        description="For how long a second message with the same deduplication key is not added.",
    )
    retention: Retention | None = Field(
        default=None,
        description=(
            "How long what is over is kept; what is older is removed once a minute. If absent, what the row in the "
            "database says stays, which is for ever unless somebody changed it."
        ),
    )
    adopt: Literal["IfExists", "Never"] = Field(
        default="IfExists",
        description=(
            "What happens if the database already has a queue of this name that no other resource owns. IfExists takes "
            "it over with its messages, and an Event says so; Never leaves it alone, with the condition Conflict."
        ),
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description=(
            "What happens to the queue in the database when this resource is deleted. Retain leaves it as it is; "
            "Delete waits until no live message is left and then removes it with its workers, archived messages and "
            "dead letters."
        ),
    )

    def policy(self) -> QueuePolicy:
        """Give what the queue's row has to say.

        Raises:
            InvalidSpecError: a value is out of range.
        """
        return QueuePolicy(
            paused=self.paused,
            lease_duration=bounded(self.lease_duration, "spec.leaseDuration", *_LEASE),
            read_limit=self.max_reads,
            death_limit=self.max_deaths,
            heartbeat_timeout=bounded(self.heartbeat_timeout, "spec.heartbeatTimeout", *_HEARTBEAT),
            deduplication_window=bounded(self.deduplication.window, "spec.deduplication.window", *_WINDOW),
            backoff=Backoff(
                first=bounded(self.retry.first_delay, "spec.retry.firstDelay", *_DELAY),
                factor=float(self.retry.factor),
                most=bounded(self.retry.max_delay, "spec.retry.maxDelay", *_DELAY),
            ),
        )

    def kept(self) -> QueueRetention | None:
        """Give what the queue's row has to say of retention, or None where it is left as it is.

        Raises:
            InvalidSpecError: a duration is out of range.
        """
        if self.retention is None:
            return None
        return QueueRetention(
            archived=_kept(self.retention.archived_messages, "spec.retention.archivedMessages"),
            dead=_kept(self.retention.dead_letters, "spec.retention.deadLetters"),
            workers=_kept(self.retention.stopped_workers, "spec.retention.stoppedWorkers"),
        )


def check_name(name: str) -> None:
    """Refuse what no queue can be called in the database.

    Raises:
        InvalidSpecError: the message says what is allowed.
    """
    try:
        names.queue_name(name)
    except errors.ValidationError as error:
        raise InvalidSpecError(str(error)) from error


def _kept(text: str | None, field: str) -> timedelta | None:
    return None if text is None else bounded(text, field, *_RETENTION)


def bounded(text: str, field: str, low: timedelta, high: timedelta) -> timedelta:
    """Read a duration.

    Args:
        text: such as `1h30m`.
        field: where it stands, for the message.
        low: the shortest that is allowed.
        high: the longest.

    Raises:
        InvalidSpecError: it is no duration, or out of range.
    """
    try:
        value = duration.parse(text, field=field)
    except errors.ValidationError as error:
        raise InvalidSpecError(str(error)) from error
    if not low <= value <= high:
        message = f"{field} is {text}; allowed are {duration.render(low)} to {duration.render(high)}."
        raise InvalidSpecError(message)
    return value


class MessageCounts(Model):
    """How many messages the queue has; each is counted once, and nothing beyond 10,000."""

    ready: int = Field(default=0, ge=0, description="Waiting for a worker now.")
    delayed: int = Field(default=0, ge=0, description="Not to be handed out before a later time.")
    leased: int = Field(default=0, ge=0, description="With a worker now.")
    dead: int = Field(default=0, ge=0, description="Dead letters.")
    capped: Annotated[list[Literal["ready", "delayed", "leased", "dead"]], Field(max_length=4)] | None = Field(
        default=None,
        description="Those of these numbers that are only a lower bound, because counting stopped at 10,000.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class WorkerCounts(Model):
    """How many workers the queue has."""

    ready: int = Field(default=0, ge=0, description="Working or waiting for messages.")
    suspended: int = Field(default=0, ge=0, description="Paused, or draining.")
    stopped: int = Field(
        default=0, ge=0, description="Ended, and kept for their history; none is counted beyond 10,000."
    )


class QueueStatus(Model):
    """What the operator found in the database."""

    conditions: Conditions | None = None
    observed_generation: int | None = Field(default=None, ge=0, description="The generation that was looked at last.")
    queue_name: Annotated[str, Field(max_length=names.MAX_QUEUE_NAME_LENGTH)] | None = Field(
        default=None, description="The queue's name in the database."
    )
    queue_id: int | None = Field(default=None, description="The queue's id in the database.")
    messages: MessageCounts | None = Field(
        default=None, description="Messages by what is the case with them, counted every 30 seconds at most."
    )
    oldest_ready_since: Moment | None = Field(
        default=None,
        description="Since when the oldest ready message has been waiting for a worker; absent if none waits.",
    )
    workers: WorkerCounts | None = Field(
        default=None, description="Workers by their state, counted every 30 seconds at most."
    )
