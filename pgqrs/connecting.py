"""How a connection to PostgreSQL is made, watched and ended, so that none of the three can hang.

What asyncpg does by itself (0.32, read and tried) is not enough: all hosts of an address share one deadline, so a first
host that swallows packets leaves none for the second; a statement that timed out waits for its own cancellation, on
another connection that may be swallowed too; and only an answer ends the wait on a line that is dead but not closed
(`watch.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from pgqrs import errors, statements

logger = logging.getLogger(__name__)

#: How long a new connection may take, all hosts together, in seconds.
CONNECT_SECONDS = 5.0
#: How long a goodbye may take, in seconds: the server is told to cancel what runs, then the line is cut.
CLOSE_SECONDS = 2.0
#: More than there are statements of ours that run often.
_KEPT_STATEMENTS = 100
#: What took longer than this may have a plan from when its table was small, if its plan is as old as this; in seconds,
#: beyond so many times the fastest answer, which tells how far away the server is: a statement that is sent the first
#: time goes there twice. One slow answer says nothing: planning makes one, too. So many of the last hundred do.
_SLOW_SECONDS = 0.005
_ROUND_TRIPS = 3
_PLANS_LAST_SECONDS = 2.0
_SLOW_ANSWERS = 5
_SLOW_SHARE = 0.1
_ANSWERS = 100
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
#: Arrays that our statements take, as PostgreSQL numbers them: number, name, number of the element's type.
_ARRAYS = (
    (1000, "_bool", 16), (1007, "_int4", 23), (1016, "_int8", 20), (1022, "_float8", 701), (1187, "_interval", 1186),
)  # fmt: skip
#: What poolers say to a setting that they do not know (PgBouncer: 08P01).
_UNKNOWN_SETTING = ("08P01", "0A000", "22023", "42704")
#: SQLSTATE classes and codes after which the same call may succeed later: connection, resources, operator intervention,
#: deadlock, serialization, a statement that was cancelled, a lock that was not free, an input/output error.
_TRANSIENT = ("08", "53", "57P01", "57P02", "57P03", "57P05", "57014", "40", "55P03", "58")
READ_ONLY = "25006"


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

    def know_arrays(self) -> None:
        """Spare the server the question what these arrays are made of, which asyncpg asks on each new connection.

        It takes six round trips and 15 ms of the server's time, more than all that a heartbeat does.
        """
        array = dict.fromkeys(("basetype", "range_subtype", "attrtypoids", "attrnames"))
        array |= {"ns": "pg_catalog", "kind": b"b", "elemdelim": ","}
        self._protocol.get_settings().register_data_types(  # type: ignore[attr-defined]
            {**array, "oid": oid, "name": name, "elemtype": element} for oid, name, element in _ARRAYS
        )

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
            self._fastest = math.inf
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
        self._fastest = min(self._fastest, seconds)
        if seconds <= _SLOW_SECONDS + _ROUND_TRIPS * self._fastest:
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
        connection.know_arrays()
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
