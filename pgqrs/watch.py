"""A second look at a statement that gets no answer: is the server at work on it, or is the line dead?

Why a deadline alone does not do is in `docs/design/connections.md`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, Any

import asyncpg

from pgqrs import statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from pgqrs.connecting import Connector

logger = logging.getLogger(__name__)

#: After this silence of a statement somebody looks after it; together with a vain connection it stays below 10 seconds.
SILENCE_SECONDS = 3.0
#: An answer that was on its way when somebody looked has this long to arrive, in seconds.
_GRACE_SECONDS = 0.5
_LOOK_SECONDS = 3.0
#: What this process or its machine lacks for a new connection; it says nothing about the server.
_OWN_SHORTAGE = (
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT,
)  # fmt: skip


class Watch:
    """A second look at a statement that gets no answer: is the server at work on it, or is the line dead?

    The kernel notices a peer that is gone, but not a proxy that acknowledges and swallows, nor a server that hangs. A
    deadline alone would have to be either longer than 10 seconds or shorter than an honest wait for a lock. So somebody
    asks on a new connection. The statement is given up where none can be had, and where the server knows nothing of it.
    """

    def __init__(self, connector: Connector, connection: Any, dead: Callable[[], Awaitable[None]]) -> None:
        """Remember what to watch.

        Args:
            connector: opens the second connection.
            connection: the one that the statement runs on.
            dead: awaited before the connection is cut.
        """
        self._connector = connector
        self._connection = connection
        self._dead = dead
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._begin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._look(), name="pgqrs-second-look")

    async def _look(self) -> None:
        pid = self._connection.get_server_pid()
        while await self._is_served(pid):  # noqa: ASYNC110 - what is waited for happens in the server
            await asyncio.sleep(SILENCE_SECONDS)
        await asyncio.sleep(_GRACE_SECONDS)
        logger.warning("a connection is dead, leaving it and all others", extra={"silence": SILENCE_SECONDS})
        await self._dead()
        self._connection.terminate()

    async def _is_served(self, pid: int) -> bool:
        """Whether the server is at work for this backend, as far as anyone can tell."""
        try:
            probe = await self._connector.open()
        except OSError as error:
            # Where we lack something ourselves nobody can tell, and the statement keeps its whole deadline.
            return error.errno in _OWN_SHORTAGE
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            # Somebody is there and refuses; overload, for example, is no reason to give up what runs.
            return True
        try:
            return bool(
                await probe.fetchval(
                    statements.statement("connections.is_at_work", "public"),
                    pid,
                    probe.get_server_pid(),
                    timeout=_LOOK_SECONDS,
                )
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return True
        finally:
            await probe.close()
