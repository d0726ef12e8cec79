"""How a connection to PostgreSQL is made, watched and ended, so that none of the three can hang.

What asyncpg does by itself (0.32, read and tried) is not enough: all hosts of an address share one deadline, so a first
host that swallows packets leaves none for the second; a statement that timed out waits for its own cancellation, on
another connection that may be swallowed too; and only an answer ends the wait on a line that is dead but not closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import asyncpg

from pgqrs import errors, statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

logger = logging.getLogger(__name__)

#: How long a new connection may take, all hosts together, in seconds.
CONNECT_SECONDS = 5.0
#: How long a goodbye may take, in seconds: the server is told to cancel what runs, then the line is cut.
CLOSE_SECONDS = 2.0
#: More than there are statements of ours that run often.
_KEPT_STATEMENTS = 100
#: What took longer than this may have a plan from when its table was small, if its plan is as old as this; in seconds.
#: One slow answer says nothing: planning makes one, too. So many of the last hundred do.
_SLOW_SECONDS = 0.005
_PLANS_LAST_SECONDS = 2.0
_SLOW_ANSWERS = 5
_SLOW_SHARE = 0.1
_ANSWERS = 100
#: After this silence of a statement somebody looks after it; together with a vain connection it stays below 10 seconds.
SILENCE_SECONDS = 3.0
#: An answer that was on its way when somebody looked has this long to arrive, in seconds.
_GRACE_SECONDS = 0.5
_LOOK_SECONDS = 3.0
#: What the kernel is asked to do with a silent line; 8 seconds for what was sent and not acknowledged (milliseconds).
_SOCKET_OPTIONS = (("TCP_KEEPIDLE", 4), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 2), ("TCP_USER_TIMEOUT", 8000))
#: What the server is asked to do with a silent line, so that a client that vanished in a transaction does not keep its
#: locks for the two hours that the server's system would wait. In seconds, the last one in milliseconds.
_SERVER_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
#: What poolers say to a setting that they do not know (PgBouncer: 08P01).
_UNKNOWN_SETTING = ("08P01", "0A000", "22023", "42704")
#: SQLSTATE classes and codes after which the same call may succeed later: connection, resources, operator intervention,
#: deadlock, serialization, a statement that was cancelled, a lock that was not free, an input/output error.
_TRANSIENT = ("08", "53", "57P01", "57P02", "57P03", "57P05", "57014", "40", "55P03", "58")
READ_ONLY = "25006"
#: What this process or its machine lacks for a new connection; it says nothing about the server.
_OWN_SHORTAGE = (
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT,
)  # fmt: skip


def is_transient(error: asyncpg.PostgresError) -> bool:
    """Whether the same call may succeed later, on another connection."""
    code = error.sqlstate or ""
    return code == READ_ONLY or code.startswith(_TRANSIENT)


def hosts(dsn: str) -> list[tuple[str, int | None]]:
    """Give the hosts of an address with their ports; None where the address does not say it."""
    found: list[tuple[str, int | None]] = []
    for part in urlsplit(dsn).netloc.rpartition("@")[2].split(","):
        bracket = part.rfind("]")
        host, colon, port = part.rpartition(":") if part.rfind(":") > bracket else (part, "", "")
        found.append((unquote(host.strip("[]")), int(port) if colon and port else None))
    return found


class Connection(asyncpg.Connection):
    """A connection whose end takes a bounded time and raises nothing."""

    async def keep_statements(self) -> None:
        """Let the server keep our statements prepared, unless a pooler stands between.

        PgBouncer before 1.21 hands one client's prepared statements to another, so a connection opens without. Whoever
        gives us another number than that of the backend that answers is a pooler.
        """
        answers = await self.fetchval(statements.statement("notify.backend", "public"))
        if answers == self.get_server_pid():
            # There is no public way to it once the connection stands.
            self._stmt_cache.set_max_size(_KEPT_STATEMENTS)  # type: ignore[attr-defined]
            self._stmt_cache_enabled = True
            self._planned()

    def _planned(self) -> None:
        self._planned_at = time.monotonic()
        self._answers = self._slow_answers = 0.0

    def took(self, seconds: float) -> None:
        """Note how long an answer took, and have statements planned anew where plans may be why many are slow.

        A prepared statement keeps its plan, and a plan that was made for an empty queue reads all of a full one, until
        PostgreSQL analyzes the table a minute later or more.
        """
        if not self._stmt_cache_enabled:
            return
        if self._answers >= _ANSWERS:
            self._answers, self._slow_answers = self._answers / 2, self._slow_answers / 2
        self._answers += 1
        if seconds <= _SLOW_SECONDS:
            return
        self._slow_answers += 1
        often = self._slow_answers >= max(_SLOW_ANSWERS, _SLOW_SHARE * self._answers)
        if often and time.monotonic() - self._planned_at > _PLANS_LAST_SECONDS:
            self._stmt_cache.clear()  # type: ignore[attr-defined]
            self._planned()

    async def close(self, *, timeout: float | None = None) -> None:
        """Cancel what runs and say goodbye, or cut the line where that takes too long (seconds)."""
        try:
            await super().close(timeout=CLOSE_SECONDS if timeout is None else min(timeout, CLOSE_SECONDS))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # The base class has cut it already; a connection that broke needs no goodbye.
            logger.debug("connection ended without a goodbye", extra={"error": type(error).__name__})


class Connector:
    """Opens connections to whichever host of one address serves."""

    def __init__(self, dsn: str, *, application_name: str, timeout: float) -> None:
        """Remember the address.

        Args:
            dsn: the address; several hosts may stand in it.
            application_name: what `pg_stat_activity` shows.
            timeout: the longest that a statement may take, in seconds.
        """
        self._dsn = dsn
        self._timeout = timeout
        self._application_name = application_name
        self._hosts = hosts(dsn)
        # No transaction of ours is open for longer than a call takes; twice that is nobody's any more.
        self._settings = {**_SERVER_SETTINGS, "idle_in_transaction_session_timeout": str(int(timeout * 2000))}

    async def open(self, *_: object, **__: object) -> Connection:
        """Open a connection; the arguments are those of asyncpg's pool, which has nothing to add.

        Raises:
            OSError: no host answered in time, among others.
            asyncpg.PostgresError: the server refused.
            asyncpg.InternalClientError: no host is what `target_session_attrs` asks for.
            ConfigurationError: the address is malformed.
        """
        if len(self._hosts) == 1:
            return await self._connect(CONNECT_SECONDS)
        failure: Exception | None = None
        for host, port in list(self._hosts):
            try:
                connection = await self._connect(CONNECT_SECONDS / len(self._hosts), host=host, port=port)
            except (OSError, asyncpg.InternalClientError) as error:
                failure = failure or error
            except asyncpg.PostgresError as error:
                if not is_transient(error):
                    raise
                failure = failure or error
            else:
                # The one that served is asked first the next time, or a lost first host would delay every connection.
                self._hosts.remove((host, port))
                self._hosts.insert(0, (host, port))
                return connection
        assert failure is not None  # noqa: S101 - there is a host, and each failed
        raise failure

    async def _connect(self, seconds: float, **where: Any) -> Connection:
        ends_at = asyncio.get_running_loop().time() + seconds
        if where and "target_session_attrs" not in self._dsn:
            # All that we do ends in writing, so of several hosts only the one that takes writes is meant.
            where["target_session_attrs"] = "read-write"
        try:
            try:
                connection = await self._ask(seconds, where)
            except asyncpg.PostgresError as error:
                if error.sqlstate not in _UNKNOWN_SETTING or not self._settings:
                    raise
                # A pooler, which watches the line to its server by its own settings.
                self._settings = {}
                connection = await self._ask(seconds, where)
        except ValueError as error:
            # asyncpg's own complaints and those about certificates are ValueErrors, too.
            if isinstance(error, (asyncpg.InterfaceError, OSError)):
                raise
            # The text may quote the DSN.
            message = "The DSN is malformed; the form is postgresql://USER:PASSWORD@HOST:PORT/DATABASE?NAME=VALUE."
            raise errors.ConfigurationError(message) from error
        _watch_line(connection)
        try:
            async with asyncio.timeout_at(ends_at):
                await connection.keep_statements()
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _ask(self, seconds: float, where: dict[str, Any]) -> Connection:
        connection: Connection = await asyncpg.connect(
            self._dsn,
            **where,
            timeout=seconds,
            command_timeout=self._timeout,
            connection_class=Connection,
            # Until it is known what stands between (`Connection.keep_statements`).
            statement_cache_size=0,
            server_settings={"application_name": self._application_name, **self._settings},
        )
        return connection


def _watch_line(connection: asyncpg.Connection) -> None:
    """Let the kernel find out that the other side is gone, where it can."""
    # asyncpg shows its socket to nobody; without this attribute only the second look is left.
    transport = getattr(connection, "_transport", None)
    line = transport.get_extra_info("socket") if transport is not None else None
    if line is None or line.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with contextlib.suppress(OSError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _SOCKET_OPTIONS:
            if (option := getattr(socket, name, None)) is not None:
                line.setsockopt(socket.IPPROTO_TCP, option, value)


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
