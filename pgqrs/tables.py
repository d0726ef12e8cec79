"""The tables of queues, workers and messages of one database, as `Admin` hands them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqrs import arguments, lifecycle, messages, queues, reaping, rows

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from pgqrs.database import Database
    from pgqrs.models import DeadLetterInfo, QueueCounts, QueueInfo, WorkerInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """How many workers of one queue are in which state.

    Example:
        ```python
        for stats in await (await admin.get_workers()).stats():
            print(stats.queue_name, stats.ready, stats.silent, stats.leased)
        ```
    """

    #: None for workers that serve no queue.
    queue_name: str | None
    ready: int
    polling: int
    interrupted: int
    suspended: int
    stopped: int
    #: Those not stopped whose last heartbeat is older than their queue's heartbeat timeout.
    silent: int
    #: Messages that they hold.
    leased: int
    #: How long ago the longest silent of those not stopped sent its last heartbeat.
    oldest_heartbeat: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHealth:
    """A worker that is not stopped, and whether it is heard of, by the server's clock.

    Example:
        ```python
        for health in await (await admin.get_workers()).health("emails"):
            print(health.worker.name, health.healthy)
        ```
    """

    worker: WorkerInfo
    queue_name: str | None
    #: How long ago its last heartbeat was.
    age: timedelta | None
    healthy: bool


class Queues:
    """All queues of a database.

    Example:
        ```python
        async with pgqrs.Admin() as admin:
            for queue in await (await admin.get_queues()).list():
                print(queue.queue_name, queue.policy.paused)
        ```
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def list(self) -> list[QueueInfo]:
        """Give all queues in the order of their names."""
        return await queues.listing(self._db)

    async def count(self) -> int:
        """Count the queues."""
        return len(await self.list())

    async def counts(self) -> dict[str, QueueCounts]:
        """Count the messages of every queue in five buckets, by the queues' names."""
        return await queues.all_counts(self._db)


class Workers:
    """All workers of a database, stopped ones included.

    Example:
        ```python
        async with pgqrs.Admin() as admin:
            workers = await admin.get_workers()
            for worker in await workers.filter_by_queue("emails"):
                print(worker.hostname, worker.status, worker.updated_at)
        ```
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def list(self) -> list[WorkerInfo]:
        """Give all workers in the order of their ids."""
        return [rows.worker(row) for row in await self._db.fetch("workers.list", None)]

    async def filter_by_queue(self, queue: str) -> builtins.list[WorkerInfo]:
        """Give the workers of one queue.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        found = await queues.get(self._db, queue)
        return [rows.worker(row) for row in await self._db.fetch("workers.list", found.queue_name)]

    async def get(self, worker_id: int) -> WorkerInfo:
        """Read one worker.

        Raises:
            WorkerNotFoundError: there is none of this id.
            ValidationError: it is no id.
        """
        return await lifecycle.get(self._db, arguments.row_id(worker_id, "worker"))

    async def count(self) -> int:
        """Count the workers."""
        return int(await self._db.fetch_value("workers.count"))

    async def stats(self, queue: str | None = None) -> builtins.list[WorkerStats]:
        """Count workers by state, for each queue or for one.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        await self._check_queue(queue)
        found = await self._db.fetch("fleet_reports.worker_stats", queue)
        return [WorkerStats(**dict(row)) for row in found]

    async def health(
        self, queue: str | None = None, *, max_age: timedelta | None = None
    ) -> builtins.list[WorkerHealth]:
        """Tell of every worker that is not stopped whether its last heartbeat is recent; the longest silent first.

        Args:
            queue: the workers of this queue only.
            max_age: how old a heartbeat may be; the queue's heartbeat timeout if not given.

        Raises:
            QueueNotFoundError: there is no such queue.
            ValidationError: the age is no duration, or negative.
        """
        seconds = None if max_age is None else arguments.seconds("max_age", max_age)
        await self._check_queue(queue)
        found = await self._db.fetch("fleet_reports.worker_health", queue, seconds)
        return [
            WorkerHealth(
                worker=rows.worker(row), queue_name=row["queue_name"], age=row["age"], healthy=bool(row["healthy"])
            )
            for row in found
        ]

    async def purgeable(self, older_than: timedelta, *, queue: str | None = None) -> builtins.list[WorkerInfo]:
        """Give the workers that `purge` would remove, in the order of their ids.

        Raises:
            QueueNotFoundError: there is no such queue.
            ValidationError: the duration is negative.
        """
        arguments.seconds("age older_than", older_than)
        await self._check_queue(queue)
        referred = await reaping.messages_refer_to_workers(self._db)
        found = await self._db.fetch("fleet_reports.purgeable", older_than, queue, referred)
        return [rows.worker(row) for row in found]

    async def purge(self, older_than: timedelta, *, queue: str | None = None) -> int:
        """Remove the rows of workers that stopped longer ago than this, in slices; two may run at once.

        Args:
            older_than: how long ago they stopped, by the server's clock.
            queue: the workers of this queue only.

        Returns:
            How many were removed.

        Raises:
            QueueNotFoundError: there is no such queue.
            ValidationError: the duration is negative.
        """
        # None would mean each queue's own retention.
        arguments.seconds("age older_than", older_than)
        return await reaping.stopped_workers(self._db, queue=queue, older_than=older_than)

    async def _check_queue(self, queue: str | None) -> None:
        if queue is not None:
            await queues.get(self._db, queue)


class Messages:
    """All messages of a database, and the dead letters among them.

    Example:
        ```python
        async with pgqrs.Admin() as admin:
            messages = await admin.get_messages()
            for letter in await messages.dead_letters("emails", reason="%timeout%"):
                print(letter.id, letter.reason, letter.payload)
            await messages.replay_matching("emails", reason="%timeout%")
        ```
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def count(self) -> int:
        """Count the messages, archived ones included."""
        return int(await self._db.fetch_value("messages.count"))

    async def dead_letters(
        self,
        queue: str,
        *,
        reason: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> list[DeadLetterInfo]:
        """Give a page of a queue's dead letters; see `messages.dead_letters` for the arguments and what it raises."""
        return await messages.dead_letters(
            self._db, queue, reason=reason, since=since, before=before, after=after, limit=limit
        )

    async def replay(self, message_id: int) -> bool:
        """Send a dead letter again; False if it is none. See `messages.replay`."""
        return (await messages.replay(self._db, [message_id]))[0]

    async def replay_many(self, message_ids: Sequence[int]) -> list[bool]:
        """Send dead letters again; for each whether it was one. See `messages.replay`."""
        return await messages.replay(self._db, message_ids)

    async def replay_matching(
        self,
        queue: str,
        *,
        reason: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> int:
        """Send all dead letters of a queue again that match, and say how many; see `messages.replay_matching`."""
        return await messages.replay_matching(self._db, queue, reason=reason, since=since, before=before)
