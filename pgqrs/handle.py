"""A worker from outside, by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pgqrs import arguments, lifecycle
from pgqrs.admin import Admin
from pgqrs.draining import DEFAULT_DRAIN, drain
from pgqrs.models import WorkerId

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from pgqrs.database import Database
    from pgqrs.models import WorkerStatus


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
            ValidationError: the id is none.
        """
        self.worker_id = WorkerId(arguments.row_id(worker_id, "worker"))
        self._shared = isinstance(database, Admin)
        self._admin = database if isinstance(database, Admin) else Admin(database)

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
            ValidationError: the timeout is no duration, or negative.
        """
        return await drain(self._db, self.worker_id, timeout, reason="drained by hand")
