"""`PgqrsWorker`: a worker that somebody looks after; the operator makes one for every injected pod."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from pgqrs import errors, names
from pgqrs_operator.resources.common import OBJECT_NAME_LENGTH, Conditions, Duration, Model, Moment, ObjectName
from pgqrs_operator.resources.queue import InvalidSpecError, bounded

_DRAIN = (timedelta(0), timedelta(hours=24))

State = Literal["Ready", "Suspended", "Stopped"]


class QueueRef(Model):
    """A `PgqrsQueue` in the same namespace."""

    name: ObjectName = Field(description="Name of the PgqrsQueue.")


class WorkerSpec(Model):
    """What is declared about a worker: one process outside of the cluster, or all workers of a pod."""

    queue_ref: QueueRef = Field(description="The queue that the worker serves. Cannot be changed.")
    hostname: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[^#\pC\pZ]+$")] | None = Field(
        default=None,
        description=(
            "First half of the name HOSTNAME:PORT under which a process outside of the cluster registered. Absent if a "
            "Pod owns this resource. Cannot be changed."
        ),
    )
    port: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        default=None, description="Second half of that name. Absent if a Pod owns this resource. Cannot be changed."
    )
    state: State | None = Field(
        default=None,
        description=(
            "Suspended: takes no new message, finishes what it has, then pauses. Stopped: the same, then ends. "
            "Ready: works, and is resumed if anybody else paused it. Absent: its own process decides; "
            "what this resource paused before is resumed."
        ),
    )
    drain_timeout: Duration = Field(
        default="25s",
        description=(
            "How long a worker that is to be stopped may finish what it has, 0s to 24h; then others get what is left. "
            "A pod that is being deleted has a drain time of its own."
        ),
    )

    def worker_name(self, *, pod_owned: bool) -> str | None:
        """Give the name of the row, `HOSTNAME:PORT`, or None for the workers of a pod.

        Raises:
            InvalidSpecError: neither a pod owns it nor is there a name, or both.
        """
        if pod_owned:
            if self.hostname is not None or self.port is not None:
                message = "spec.hostname and spec.port must be absent: a Pod owns this resource; its workers are meant."
                raise InvalidSpecError(message)
            return None
        if self.hostname is None or self.port is None:
            message = "spec.hostname and spec.port are needed, because no Pod owns this resource."
            raise InvalidSpecError(message)
        try:
            return names.worker_name(self.hostname, self.port)
        except errors.ValidationError as error:
            raise InvalidSpecError(str(error)) from error

    def drain_limit(self) -> timedelta:
        """Give how long a drain may take.

        Raises:
            InvalidSpecError: it is out of range.
        """
        return bounded(self.drain_timeout, "spec.drainTimeout", *_DRAIN)


class Drain(Model):
    """The drain of a worker that is to be stopped."""

    generation: int = Field(ge=0, description="The generation of the resource that asked for it.")
    since: Moment = Field(description="When it began; spec.drainTimeout counts from then.")


class WorkerStatus(Model):
    """What the operator found in the database about the worker, or about all workers of the pod."""

    conditions: Conditions | None = None
    observed_generation: int | None = Field(default=None, ge=0, description="The generation that was looked at last.")
    worker_ids: Annotated[list[int], Field(max_length=1000)] | None = Field(
        default=None,
        description="Ids of the live workers in the database.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    state: Literal["Waiting", "Ready", "Draining", "Suspended", "Stopped"] | None = Field(
        default=None, description="What the workers do; of several, the busiest counts."
    )
    pod: Annotated[str, Field(max_length=OBJECT_NAME_LENGTH)] | None = Field(
        default=None, description="The pod behind it."
    )
    heartbeat: Literal["Fresh", "Stale"] | None = Field(
        default=None, description="Stale if a worker was silent for more than half of the queue's heartbeat timeout."
    )
    drain: Drain | None = Field(
        default=None, description="Since when a worker that is to be stopped has been finishing what it holds."
    )
    leased_messages: int | None = Field(default=None, ge=0, description="Messages that the workers hold now.")
