"""Values that the library hands out: rows of the database as frozen dataclasses, and the names of their states."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NewType

from pgqrs.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Mapping

QueueId = NewType("QueueId", int)
WorkerId = NewType("WorkerId", int)
MessageId = NewType("MessageId", int)


class Timestamp(datetime):
    """An aware datetime that also compares with naive ones, which it takes as UTC.

    Existing code compares our times with `datetime.utcnow()`; Python refuses to order naive and aware ones.
    """

    @classmethod
    def of(cls, moment: datetime) -> Timestamp:
        """Make one from any aware datetime."""
        utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
        return cls.combine(utc, utc.timetz())

    @staticmethod
    def _aware(other: datetime) -> datetime:
        return other.replace(tzinfo=UTC) if other.tzinfo is None else other

    def __lt__(self, other: datetime) -> bool:  # type: ignore[override]
        return super().__lt__(self._aware(other))

    def __le__(self, other: datetime) -> bool:  # type: ignore[override]
        return super().__le__(self._aware(other))

    def __gt__(self, other: datetime) -> bool:  # type: ignore[override]
        return super().__gt__(self._aware(other))

    def __ge__(self, other: datetime) -> bool:  # type: ignore[override]
        return super().__ge__(self._aware(other))

    def __eq__(self, other: object) -> bool:
        return super().__eq__(self._aware(other) if isinstance(other, datetime) else other)

    def __hash__(self) -> int:
        return super().__hash__()


class WorkerStatus(StrEnum):
    """The states of a worker; equal to their names as text, so `status == "stopped"` works.

    Example:
        ```python
        if await consumer.status() == "suspended":  # WorkerStatus.SUSPENDED is equal to it
            await consumer.resume()
        ```
    """

    READY = "ready"
    POLLING = "polling"
    INTERRUPTED = "interrupted"
    SUSPENDED = "suspended"
    STOPPED = "stopped"


#: The states in which a worker may be handed messages.
WORKING = (WorkerStatus.READY, WorkerStatus.POLLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodIdentity:
    """The pod behind a worker. The uid identifies it; a name can come back, a uid never does.

    Example:
        ```python
        pod = pgqrs.PodIdentity(uid="6f1c", name="web-7d9", namespace="shop", container="app")
        ```
    """

    uid: str
    name: str
    namespace: str
    cluster: str | None = None
    container: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One row of `pgqrs_workers`.

    Example:
        ```python
        for worker in await (await admin.get_workers()).filter_by_queue("emails"):
            print(worker.name, worker.status, worker.heartbeat_at, worker.leased)
        ```
    """

    id: WorkerId
    name: str
    hostname: str
    port: int | None
    queue_id: QueueId | None
    status: WorkerStatus
    started_at: Timestamp | None
    heartbeat_at: Timestamp | None
    shutdown_at: Timestamp | None
    pod_uid: str | None = None
    pod_name: str | None = None
    pod_namespace: str | None = None
    cluster: str | None = None
    container: str | None = None
    terminating: bool = False
    stop_reason: str | None = None
    #: Messages that this worker holds now; only filled by calls that say so.
    leased: int = 0

    @property
    def updated_at(self) -> Timestamp | None:
        """The time of the last heartbeat, under the name that the documents use."""
        return self.heartbeat_at


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """What a queue's row tells every client and the reaper.

    Example:
        ```python
        policy = pgqrs.QueuePolicy(lease_duration=timedelta(minutes=5), read_limit=3)
        await admin.set_policy("emails", policy)
        ```
    """

    paused: bool = False
    lease_duration: timedelta = timedelta(seconds=30)
    #: A message that was leased this often and comes back is dead-lettered.
    read_limit: int = 5
    #: A message that so many processes died under is dead-lettered; sidecars and the operator know of deaths.
    death_limit: int = 3
    heartbeat_timeout: timedelta = timedelta(seconds=60)
    #: For how long after a message was archived its deduplication key is still taken.
    deduplication_window: timedelta = timedelta(0)
    #: When what a handler of `Consumer.run` failed on is tried again, unless the run has a back-off of its own.
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRetention:
    """How long a queue keeps what is over; None keeps it for ever. Removed by whoever runs the reaping.

    Apart from the policy, because a resource that declares the policy need not say anything of it.

    Example:
        ```python
        await admin.set_retention("emails", pgqrs.QueueRetention(archived=timedelta(days=7)))
        ```
    """

    #: Archived messages that are no dead letters, from the time they were archived; at least for the policy's
    #: `deduplication_window`.
    archived: timedelta | None = None
    #: Dead letters, from the time they died.
    dead: timedelta | None = None
    #: Stopped workers, from the time they were stopped.
    workers: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueInfo:
    """One row of `pgqrs_queues`.

    Example:
        ```python
        queue = await admin.get_queue("emails")
        print(queue.queue_name, queue.policy.paused, queue.owner)
        ```
    """

    id: QueueId
    queue_name: str
    created_at: Timestamp
    policy: QueuePolicy
    #: The resource that declares this queue (`NAMESPACE/NAME`), or nobody.
    owner: str | None = None
    retention: QueueRetention = field(default_factory=QueueRetention)


#: The most messages that are counted of one kind.
MAX_COUNT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """How many messages a queue has in each of five buckets; a message is in exactly one.

    Nothing is counted beyond `MAX_COUNT` (10,000), so that counting costs the same however large the backlog is.

    Example:
        ```python
        counts = await admin.queue_counts("emails")
        print(f"{counts.ready} waiting, {counts.leased} being handled, {counts.dead} dead")
        ```
    """

    #: May be leased now, those whose lease ran out included.
    ready: int = 0
    #: Sent or released with a delay that is not over.
    delayed: int = 0
    leased: int = 0
    dead: int = 0
    #: Done and kept.
    archived: int = 0
    #: The buckets whose number is only a lower bound, because counting stopped there.
    capped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as its consumer sees it.

    Example:
        ```python
        for message in await consumer.dequeue(10):
            print(message.id, message.payload, message.read_ct)
            await consumer.archive(message.id)
        ```
    """

    id: MessageId
    queue_id: QueueId
    payload: Any
    enqueued_at: Timestamp
    #: When the lease ends, by the server's clock.
    vt: Timestamp
    #: How often the message was leased, this time included.
    read_ct: int
    consumer_worker_id: WorkerId | None = field(default=None)
    #: What the sender said beside the payload, such as the context of a trace.
    headers: Mapping[str, Any] = field(default_factory=dict)
    #: The deduplication key that it was sent with, if any.
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterInfo:
    """A message that was given up, with the reason; nobody is handed it until it is replayed.

    Example:
        ```python
        for letter in await (await admin.get_messages()).dead_letters("emails"):
            print(letter.id, letter.reason)
        ```
    """

    id: MessageId
    queue_id: QueueId
    payload: Any
    reason: str
    died_at: Timestamp
    enqueued_at: Timestamp
    #: How often it was leased.
    read_ct: int
    headers: Mapping[str, Any] = field(default_factory=dict)
    #: The deduplication key that it was sent with, if any.
    key: str | None = None
