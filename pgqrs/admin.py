"""Looking after the whole: the schema, queues, workers and messages of one database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pgqrs import errors, lifecycle, names, queues, rows, schema
from pgqrs.database import Database
from pgqrs.settings import Settings

if TYPE_CHECKING:
    import builtins
    from datetime import timedelta
    from types import TracebackType

    from pgqrs.models import QueueCounts, QueueInfo, QueuePolicy, WorkerInfo, WorkerStatus


class Admin:
    """One database with pgqrs tables."""

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
    """All queues of a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def list(self) -> list[QueueInfo]:
        """Give all queues in the order of their names."""
        return await queues.listing(self._db)

    async def count(self) -> int:
        """Count the queues."""
        return len(await self.list())


class Workers:
    """All workers of a database, stopped ones included."""

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


class Messages:
    """All messages of a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def count(self) -> int:
        """Count the messages, archived ones included."""
        return int(await self._db.fetch_value("messages.count"))


class WorkerHandle:
    """A worker by its id, without the process that registered it."""

    def __init__(self, database: str | Admin, worker_id: int) -> None:
        self._admin = database if isinstance(database, Admin) else Admin(database)
        self.worker_id = worker_id

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
