"""Looking after the whole: the schema, queues, workers and messages of one database."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from pgqrs import errors, lifecycle, messages, names, queues, reaping, rows, schema
from pgqrs.database import Database
from pgqrs.settings import Settings

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence
    from datetime import datetime
    from types import TracebackType

    from pgqrs.models import DeadLetter, QueueCounts, QueueInfo, QueuePolicy, QueueRetention, WorkerInfo, WorkerStatus

_DRAIN_POLL_SECONDS = 0.05
DEFAULT_DRAIN = timedelta(seconds=25)


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


class Admin:
    """One database with pgqrs tables.

    Example:
        ```python
        async with pgqrs.Admin("postgresql://localhost/mydb") as admin:
            await admin.install()
            await admin.create_queue("emails")
        ```
    """

    def __init__(self, dsn: str | None = None, schema: str | None = None) -> None:
        """Remember where it is; nothing is opened before the first call.

        Args:
            dsn: the database's address; `PGQRS_DSN` if not given.
            schema: where the tables are; `PGQRS_SCHEMA` or `public` if not given.

        Raises:
            ConfigurationError: there is no DSN, neither given nor in the environment, or it is malformed.
            ValidationError: the schema's name is not allowed.
        """
        settings = Settings.from_env()
        chosen = dsn or settings.dsn
        if chosen is None:
            message = "No DSN is given; pass one, or set PGQRS_DSN."
            raise errors.ConfigurationError(message)
        self.database = Database(chosen, schema=schema or settings.schema, application_name="pgqrs admin")

    def __repr__(self) -> str:
        return f"Admin({self.database!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def install(self, *, phase: schema.Phase = "all", role_prefix: str | None = None) -> None:
        """Install or upgrade the tables; see `schema.install` for the arguments and what it raises."""
        await schema.install(self.database, phase=phase, role_prefix=role_prefix)

    async def verify(self, *, phase: schema.Phase = "all") -> None:
        """Check the tables without changing anything; see `schema.verify` for the argument and what it raises."""
        await schema.verify(self.database, phase=phase)

    async def create_queue(self, name: str, policy: QueuePolicy | None = None) -> QueueInfo:
        """Make a queue; see `queues.create` for what it raises."""
        return await queues.create(self.database, name, policy)

    async def get_queue(self, name: str) -> QueueInfo:
        """Read one queue; see `queues.get` for what it raises."""
        return await queues.get(self.database, name)

    async def set_policy(self, name: str, policy: QueuePolicy) -> QueueInfo:
        """Change a queue's policy; see `queues.set_policy` for what it raises."""
        return await queues.set_policy(self.database, name, policy)

    async def set_retention(self, name: str, retention: QueueRetention) -> QueueInfo:
        """Change how long a queue keeps what is over; see `queues.set_retention` for what it raises."""
        return await queues.set_retention(self.database, name, retention)

    async def purge_queue(self, name: str, *, archive: bool = False) -> int:
        """Remove a queue's live messages, and its archive if asked to; see `queues.purge` for more.

        Returns:
            How many messages were removed.
        """
        return await queues.purge(self.database, name, archive=archive)

    async def reap(self, *, queue: str | None = None) -> reaping.Reaped:
        """Stop silent workers, and remove what no queue keeps any longer; see `reaping.reap` for what it raises."""
        return await reaping.reap(self.database, queue=queue)

    async def queue_counts(self, name: str) -> QueueCounts:
        """Count a queue's messages in five buckets."""
        return await queues.counts(self.database, names.queue_name(name))

    async def delete_queue(self, name: str) -> None:
        """Remove an empty queue; see `queues.delete` for what it raises."""
        await queues.delete(self.database, name)

    async def get_queues(self) -> Queues:
        """Give the table of queues."""
        return Queues(self.database)

    async def get_workers(self) -> Workers:
        """Give the table of workers."""
        return Workers(self.database)

    async def get_messages(self) -> Messages:
        """Give the table of messages."""
        return Messages(self.database)

    async def delete_worker(self, worker_id: int) -> None:
        """Remove a stopped worker's row.

        Raises:
            WorkerNotFoundError: there is none of this id.
            InvalidStateTransitionError: it is not stopped.
        """
        if await self.database.fetch_value("workers.delete", worker_id) is None:
            status = await lifecycle.status(self.database, worker_id)
            raise errors.InvalidStateTransitionError(
                status, status, "only a stopped worker can be deleted; stop it first"
            )

    async def aclose(self) -> None:
        """Give all connections back."""
        await self.database.aclose()


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
        """Give the workers of one queue."""
        return [rows.worker(row) for row in await self._db.fetch("workers.list", names.queue_name(queue))]

    async def get(self, worker_id: int) -> WorkerInfo:
        """Read one worker; raises WorkerNotFoundError."""
        return await lifecycle.get(self._db, worker_id)

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
        """
        await self._check_queue(queue)
        seconds = max_age.total_seconds() if max_age is not None else None
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
        """
        await self._check_queue(queue)
        return [rows.worker(row) for row in await self._db.fetch("fleet_reports.purgeable", older_than, queue)]

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
        return await reaping.stopped_workers(self._db, queue=queue, older_than=older_than)

    async def _check_queue(self, queue: str | None) -> None:
        if queue is not None:
            await queues.get(self._db, names.queue_name(queue))


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
    ) -> list[DeadLetter]:
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


async def drain(db: Database, worker_id: int, timeout: timedelta, *, reason: str) -> int:
    """Give a worker no more messages, wait until it holds none, then suspend and stop it.

    Args:
        db: where.
        worker_id: whom.
        timeout: how long to wait for what it holds; what is left then is released for others.
        reason: why, as the row says afterwards.

    Returns:
        How many messages had to be released.

    Raises:
        WorkerNotFoundError: there is none of this id.
    """
    with contextlib.suppress(errors.InvalidStateTransitionError):
        await lifecycle.interrupt(db, worker_id)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout.total_seconds()):
            while await lifecycle.leased(db, worker_id):  # noqa: ASYNC110 - the database sets no event
                await asyncio.sleep(_DRAIN_POLL_SECONDS)
    with contextlib.suppress(errors.InvalidStateTransitionError):
        await lifecycle.suspend(db, worker_id)
    return (await lifecycle.stop(db, [worker_id], reason=reason)).popitem()[1]


class WorkerHandle:
    """A worker by its id, without the process that registered it.

    Example:
        ```python
        async with pgqrs.WorkerHandle("postgresql://localhost/mydb", 42) as handle:
            released = await handle.drain(timedelta(seconds=25))
        ```
    """

    def __init__(self, database: str | Admin, worker_id: int) -> None:
        """Remember whom it is about; nothing is opened before the first call.

        Args:
            database: a DSN, or an `Admin` whose connections are shared.
            worker_id: the worker's id; whether there is one shows at the first call.

        Raises:
            ConfigurationError: the DSN is malformed.
        """
        self._shared = isinstance(database, Admin)
        self._admin = database if isinstance(database, Admin) else Admin(database)
        self.worker_id = worker_id

    def __repr__(self) -> str:
        return f"WorkerHandle({self.worker_id})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the connections back, unless they are an `Admin`'s; the worker is left as it is."""
        if not self._shared:
            await self._admin.aclose()

    @property
    def _db(self) -> Database:
        return self._admin.database

    async def status(self) -> WorkerStatus:
        """Read the worker's state."""
        return await lifecycle.status(self._db, self.worker_id)

    async def heartbeat(self) -> None:
        """Send a heartbeat in the worker's name."""
        await lifecycle.heartbeat(self._db, self.worker_id)

    async def is_healthy(self, max_age: timedelta) -> bool:
        """Tell whether the last heartbeat is at most `max_age` old, by the server's clock."""
        return await lifecycle.is_healthy(self._db, self.worker_id, max_age)

    async def suspend(self) -> None:
        """Pause the worker; see `lifecycle.suspend` for what it raises."""
        await lifecycle.suspend(self._db, self.worker_id)

    async def resume(self) -> None:
        """Let the worker work again; see `lifecycle.resume` for what it raises."""
        await lifecycle.resume(self._db, self.worker_id)

    async def shutdown(self) -> None:
        """Stop the suspended worker; see `lifecycle.shutdown` for what it raises."""
        await lifecycle.shutdown(self._db, self.worker_id)

    async def drain(self, timeout: timedelta = DEFAULT_DRAIN) -> int:
        """Give the worker no more messages, let it finish what it holds, then suspend and stop it.

        Args:
            timeout: how long to wait for what it holds; what is left then is released for others.

        Returns:
            How many messages had to be released.

        Raises:
            WorkerNotFoundError: there is none of this id.
        """
        return await drain(self._db, self.worker_id, timeout, reason="drained by hand")
