"""Looking after the whole: the schema, queues, workers and messages of one database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pgqrs import errors, queues, reaping, schema
from pgqrs.database import Database
from pgqrs.settings import Settings
from pgqrs.tables import Messages, Queues, Workers

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from pgqrs.models import QueueCounts, QueueInfo, QueuePolicy, QueueRetention


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
        # Not shown: what was meant to be a DSN may hold a password.
        if not isinstance(chosen, str):
            message = (
                f"The DSN is a {type(chosen).__name__}; it is a text, postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
            )
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

    async def install(
        self,
        *,
        phase: schema.Phase = "all",
        role_prefix: str | None = None,
        timeout: timedelta = schema.DEFAULT_INSTALL,
    ) -> None:
        """Install or upgrade the tables; see `schema.install` for the arguments and what it raises."""
        await schema.install(self.database, phase=phase, role_prefix=role_prefix, timeout=timeout)

    async def verify(self, *, phase: schema.Phase = "all") -> None:
        """Check the tables without changing anything; see `schema.verify` for the argument and what it raises."""
        await schema.verify(self.database, phase=phase)

    async def create_queue(
        self, name: str, policy: QueuePolicy | None = None, *, retention: QueueRetention | None = None
    ) -> QueueInfo:
        """Make a queue; see `queues.create` for what it raises.

        Args:
            name: what it is called.
            policy: what its clients go by; the defaults of `QueuePolicy` if not given.
            retention: how long it keeps what is over; for ever if not given.
        """
        return await queues.create(self.database, name, policy, retention)

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
        """Count a queue's messages in five buckets; see `queues.counts` for what it raises."""
        return await queues.counts(self.database, name)

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
        """Remove a stopped worker's row; see `reaping.delete_worker` for what it raises."""
        await reaping.delete_worker(self.database, worker_id)

    async def aclose(self) -> None:
        """Give all connections back."""
        await self.database.aclose()
