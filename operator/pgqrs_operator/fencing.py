"""Keeps a process that is not the leader any more from writing, to the API server and to databases alike.

Leadership ends by a clock, so it is looked at right before each write is sent. What was under way already, or is sent
by a process that was frozen just after it had looked, meets rows and objects that fence themselves: see
`docs/design/leadership.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pgqrs.database import Database
from pgqrs.errors import DatabaseUnavailableError
from pgqrs_operator.api import ApiError, Kubernetes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kubernetes.aio.client.api_client import ApiClient

    from pgqrs.database import Lent

#: Tells whether this process may act at this very moment.
MayWrite = Callable[[], bool]

_WHY = "this process is not the leader any more and ends"


def always() -> bool:
    """Say that there is nobody else who could act."""
    return True


class FencedKubernetes(Kubernetes):
    """An API server that is only read without leadership."""

    def __init__(self, client: ApiClient, may_write: MayWrite) -> None:
        """Take a client that somebody else opens and closes."""
        super().__init__(client)
        self._may_write = may_write

    async def _call(self, method: str, where: str, **more: Any) -> dict[str, Any]:
        if method != "GET" and not self._may_write():
            message = f"{method} {where}: not sent, {_WHY}"
            raise ApiError(message)
        return await super()._call(method, where, **more)


class FencedDatabase(Database):
    """A database that takes no statement without leadership."""

    def __init__(self, dsn: str, *, may_write: MayWrite, **options: Any) -> None:
        """Take what `Database` takes."""
        super().__init__(dsn, **options)
        self._may_write = may_write

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[Lent]:
        """Lend a connection as `Database` does.

        Raises:
            DatabaseUnavailableError: none could be had in time, or this process is not the leader any more.
        """
        async with super().connection(timeout=timeout) as connection:
            # Only now: waiting for a connection may have taken longer than the leadership lasted.
            if not self._may_write():
                message = f"Nothing was sent to PostgreSQL at {self.where}: {_WHY}."
                raise DatabaseUnavailableError(message)
            yield connection
