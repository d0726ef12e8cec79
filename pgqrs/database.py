"""The way to PostgreSQL: one bounded pool, opened at the first call, and errors in our own words.

Every call has a deadline, waiting for a connection included; a dead connection is noticed within 10 seconds and never
waited for (`docs/design/connections.md`). Nothing here relies on the state of a session, so PgBouncer in transaction
mode may stand between: tables are named with their schema, no statement is prepared by name, locks end with their
transaction. No error, log line or `repr` holds the password.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from pgqrs import errors, names, statements
from pgqrs.connecting import CLOSE_SECONDS, Connection, Connector, is_transient
from pgqrs.listener import Listener
from pgqrs.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator
    from types import TracebackType

    Record: TypeAlias = asyncpg.Record
    Lent: TypeAlias = asyncpg.pool.PoolConnectionProxy

#: `HOST`, `HOST:PORT`, `[IPv6]` or `[IPv6]:PORT`.
_HOST = re.compile(r"(?:\[[^\]]*\]|(?P<name>[^:/]*))(?::(?P<port>[0-9]{0,5}))?")
_MAX_PORT = 65535
_MAX_LABEL = 63
#: How long `aclose` waits for calls under way, in seconds.
_CLOSE_POOL_SECONDS = 5.0
_UNDEFINED = ("42P01", "42703", "3F000")


_Answer = TypeVar("_Answer")


def describe(dsn: str) -> str:
    """Name a database for people, as `HOST:PORT/DATABASE`, without user and password."""
    try:
        parts = urlsplit(check_dsn(dsn))
    except errors.ConfigurationError:
        # What is no address may show a password wherever it is cut.
        return "the database"
    return f"{parts.netloc.rpartition('@')[2] or 'localhost'}/{unquote(parts.path.lstrip('/'))}"


def check_dsn(dsn: str) -> str:
    """Give the address back if it is one of PostgreSQL; several hosts may stand in it, with commas between.

    Raises:
        ConfigurationError: it is not; the message does not quote it, because it may hold a password.
    """
    try:
        parts = urlsplit(dsn if isinstance(dsn, str) else "")
        hosts = parts.netloc.rpartition("@")[2].split(",")
        # An @ further on means that a password with a / or ? in it was taken for a host and a path.
        sound = all(map(_is_host, hosts)) and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        parts, sound = urlsplit(""), False
    if parts.scheme not in {"postgresql", "postgres"} or not sound:
        message = (
            "The DSN is not a PostgreSQL address; it has the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE. "
            "Special characters in user and password are written as in URLs, such as %40 for @."
        )
        raise errors.ConfigurationError(message)
    return dsn


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    if match is None or int(match["port"] or 0) > _MAX_PORT:
        return False
    # What the resolver could not even be asked for: empty labels, and such of more than 63 characters.
    labels = (match["name"] or "").removesuffix(".").split(".")
    return labels == [""] or all(0 < len(label) <= _MAX_LABEL for label in labels)


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what asyncpg raises into the errors of this library, with the original as the cause.

    Raises:
        DatabaseUnavailableError: no connection, no answer in time, a certificate that is not trusted, or a server that
            is shutting down, full or read-only. Whether a statement that was under way took effect is not known.
        ConfigurationError: the DSN asks for what cannot be.
        SchemaError: a table or column is missing.
        DatabaseError: anything else that PostgreSQL refuses.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _refusal(error, where) from error
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise _failure(error, where) from error


def _refusal(error: asyncpg.PostgresError, where: str) -> errors.DatabaseError:
    code = error.sqlstate or ""
    if is_transient(error):
        return errors.DatabaseUnavailableError(
            f"PostgreSQL at {where} cannot serve now ({type(error).__name__}, SQLSTATE {code}); try again later."
        )
    if code in _UNDEFINED:
        return errors.SchemaError(
            f"The tables of pgqrs at {where} are not there or not complete ({error}); run `Admin.install()`."
        )
    if code.startswith("28"):
        return errors.DatabaseError(
            f"PostgreSQL at {where} refused the login: {error} (SQLSTATE {code}); check user and password of the DSN."
        )
    return errors.DatabaseError(f"PostgreSQL at {where} refused the statement: {error} (SQLSTATE {code}).")


def _failure(error: Exception, where: str) -> errors.PgqrsError:
    """Name what is known of a failure; the text of the original may quote the DSN, so it stays in the cause."""
    if isinstance(error, TimeoutError):
        return errors.DatabaseUnavailableError(
            f"PostgreSQL at {where} gave no answer in time; check that it runs and is not overloaded, then try again."
        )
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", "") or error.reason or type(error).__name__
        return errors.DatabaseUnavailableError(
            f"No trusted connection to PostgreSQL at {where} ({reason}); check the DSN's sslrootcert and the server's "
            "certificate."
        )
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return errors.ConfigurationError(
            f"The DSN of {where} asks for what cannot be, such as an unknown sslmode or a certificate file that is not "
            "there; check what stands after its question mark."
        )
    if isinstance(error, asyncpg.exceptions.TargetServerAttributeNotMatched):
        return errors.DatabaseUnavailableError(
            f"No server of {where} is of the kind that is needed, one that takes writes or what target_session_attrs "
            "says; a fail-over may be under way, try again later."
        )
    return errors.DatabaseUnavailableError(
        f"PostgreSQL at {where} cannot be reached ({type(error).__name__}); check that it runs and is reachable."
    )


class Database:
    """A database with pgqrs tables in one of its schemas; it belongs to the event loop of its first call."""

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "public",
        max_connections: int = 4,
        application_name: str = "pgqrs",
        timeout: float = 30.0,
        idle_seconds: float = 300.0,
    ) -> None:
        """Remember where it is; nothing is opened before the first call.

        Args:
            dsn: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`; of several hosts (`HOST:PORT,HOST:PORT`) the one that
                takes writes is used, unless `target_session_attrs` says something else.
            schema: where the tables are.
            max_connections: the most connections at a time.
            application_name: what `pg_stat_activity` shows.
            timeout: seconds that one call may take, waiting for a connection included.
            idle_seconds: after so many seconds without a call a connection is closed.

        Raises:
            ConfigurationError: the DSN is not a PostgreSQL address.
            ValidationError: the schema's name is not allowed.
        """
        self.schema = names.schema_name(schema)
        self.where = describe(dsn)
        self.timeout = timeout
        #: How many statements were sent, those that begin and end transactions included.
        self.round_trips = 0
        self._dsn = check_dsn(dsn)
        self._connector = Connector(self._dsn, application_name=application_name, timeout=timeout)
        self._max_connections = max_connections
        self._idle_seconds = idle_seconds
        self._pool: asyncpg.Pool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: set[asyncio.Task[None]] = set()
        #: Tells consumers what is sent, on one connection beside those of the pool while somebody waits.
        self.listener = Listener(self)
        self._closed = False

    def __repr__(self) -> str:
        return f"Database({self.where}, schema={self.schema!r})"

    @property
    def dsn(self) -> str:
        """The whole address, with the password: for opening connections, never for showing."""
        return self._dsn

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check_usable(self) -> None:
        if self._closed:
            message = f"{self!r} is closed; make a new one."
            raise errors.ConfigurationError(message)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            message = (
                f"{self!r} belongs to another event loop, the one of its first call; connections cannot change loops. "
                "Make one per loop, inside of the function that asyncio.run() runs."
            )
            raise errors.ConfigurationError(message)

    async def _open(self) -> asyncpg.Pool:
        self._check_usable()
        if self._pool is None:
            missing = _missing_certificate(self._dsn)
            if missing is not None:
                message = f"The DSN of {self.where} names the certificate file {missing}, which is not there."
                raise errors.ConfigurationError(message)
            self._pool = asyncpg.create_pool(
                min_size=0,
                max_size=self._max_connections,
                max_inactive_connection_lifetime=self._idle_seconds,
                connect=self._connector.open,
                connection_class=Connection,
                # No statement of ours leaves anything behind in a session: nothing to reset, a round trip less.
                reset=_leave_as_it_is,
            )
        # Opens nothing, and may be awaited again.
        await self._pool
        return self._pool

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[Lent]:
        """Lend a connection of the pool until the block or its time ends.

        Args:
            timeout: seconds that the whole block may take, waiting for the connection included; the time for one call
                if not given.

        Raises:
            DatabaseUnavailableError: none could be had in time.
            ConfigurationError: it is closed, or belongs to another event loop.
        """
        seconds = self.timeout if timeout is None else timeout
        with translated(self.where):
            pool = await self._open()
            connection: Lent | None = None
            deadline = asyncio.timeout(seconds)
            try:
                async with deadline:
                    connection = await pool.acquire()
                    try:
                        yield connection
                    except (asyncio.CancelledError, TimeoutError, GeneratorExit):
                        # Something may still run there. It is cancelled and cut without anyone waiting for it.
                        self._end_later(connection)
                        raise
                    except asyncpg.ReadOnlySQLTransactionError:
                        # The server became a replica: every connection leads to the wrong one.
                        await self._expire()
                        self._end_later(connection)
                        raise
                    except BaseException:
                        await pool.release(connection)
                        raise
                    await pool.release(connection)
            except TimeoutError as error:
                if connection is None and deadline.expired():
                    message = (
                        f"No connection to PostgreSQL at {self.where} could be had within {seconds} s: all "
                        f"{self._max_connections} were in use or did not open; allow more, or call less at a time."
                    )
                    raise errors.DatabaseUnavailableError(message) from error
                raise

    def _end_later(self, connection: Lent) -> None:
        task = asyncio.get_running_loop().create_task(_end(connection), name="pgqrs-end-connection")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _expire(self) -> None:
        """Leave all connections: those in use at their end, the others at once."""
        self.listener.distrust()
        if self._pool is not None:
            await self._pool.expire_connections()

    async def connect(self) -> Connection:
        """Open a connection beside the pool, for what needs a session of its own; the caller closes it.

        Raises:
            DatabaseUnavailableError: none could be had in time.
            ConfigurationError: it is closed, or belongs to another event loop.
        """
        self._check_usable()
        with translated(self.where):
            return await self._connector.open()

    async def answer(self, connection: Lent, pending: Awaitable[_Answer]) -> _Answer:
        """Wait for a statement on this connection, and look after it when it stays silent.

        Raises:
            asyncpg.ConnectionDoesNotExistError: the connection turned out to be dead.
        """
        began = time.monotonic()
        self.round_trips += 1
        with Watch(self._connector, connection, self._expire):
            answer = await pending
        # A method of ours, which the types of asyncpg's pool do not tell of.
        connection.took(time.monotonic() - began)  # type: ignore[attr-defined]
        return answer

    @asynccontextmanager
    async def transaction(self, *, timeout: float | None = None) -> AsyncIterator[Transaction]:
        """Run several statements as one; an exception rolls all of them back.

        Args:
            timeout: seconds that all of them together may take; the time for one call if not given.
        """
        async with self.connection(timeout=timeout) as connection:
            block = connection.transaction()
            await self.answer(connection, block.start())
            try:
                yield Transaction(self, connection, timeout)
            except (asyncio.CancelledError, TimeoutError, GeneratorExit):
                # The connection is about to be cut, which rolls back; asking for it would wait for a dead one.
                raise
            except BaseException:
                if not is_lost(connection):
                    await self.answer(connection, block.rollback())
                raise
            await self.answer(connection, block.commit())

    async def fetch(self, name: str, *args: object) -> list[Record]:
        """Run the statement `FILE.NAME` and give all its rows."""
        async with self.connection() as connection:
            return await self.answer(connection, connection.fetch(statements.statement(name, self.schema), *args))

    async def fetch_row(self, name: str, *args: object) -> Record | None:
        """Run the statement `FILE.NAME` and give its first row."""
        async with self.connection() as connection:
            return await self.answer(connection, connection.fetchrow(statements.statement(name, self.schema), *args))

    async def fetch_value(self, name: str, *args: object) -> Any:
        """Run the statement `FILE.NAME` and give the first column of its first row."""
        async with self.connection() as connection:
            return await self.answer(connection, connection.fetchval(statements.statement(name, self.schema), *args))

    async def aclose(self) -> None:
        """Give all connections back; those that do not end in 5 seconds are cut.

        Raises:
            ConfigurationError: it belongs to another event loop that still runs.
        """
        if self._loop is not None and self._loop.is_closed():
            # Its connections went with it.
            self._pool, self._closed = None, True
            return
        if not self._closed:
            self._check_usable()
        self._closed = True
        pool, self._pool = self._pool, None
        try:
            await self.listener.aclose()
            if pool is not None:
                # TimeoutError is an OSError. A connection that broke needs no goodbye.
                with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    async with asyncio.timeout(_CLOSE_POOL_SECONDS):
                        await pool.close()
        finally:
            # Does nothing to a pool that is closed; one that is not, because we were cancelled, is cut.
            if pool is not None:
                pool.terminate()
        if self._ending:
            await asyncio.wait(self._ending, timeout=CLOSE_SECONDS)


def is_lost(connection: Lent | asyncpg.Connection) -> bool:
    """Whether the connection broke; one that a pool lent was taken back already."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """Reset nothing."""


async def _end(connection: Lent) -> None:
    # A proxy that was released meanwhile refuses, and then there is nothing left to do.
    with contextlib.suppress(asyncpg.InterfaceError):
        await connection.close(timeout=CLOSE_SECONDS)


def _missing_certificate(dsn: str) -> str | None:
    """Give the first certificate file that the address names and that is not there."""
    options = parse_qs(urlsplit(dsn).query)
    files = [file for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl") for file in options.get(name, ())]
    return next((file for file in files if not Path(file).exists()), None)


class Transaction:
    """The statements of one transaction."""

    def __init__(self, db: Database, connection: Lent, timeout: float | None) -> None:
        self.connection = connection
        self.schema = db.schema
        self._db = db
        #: How long one of them may take, in seconds; None is what the connection says, the time for one call.
        self._timeout = timeout

    async def fetch(self, name: str, *args: object) -> list[Record]:
        """Run the statement `FILE.NAME` and give all its rows."""
        text = statements.statement(name, self.schema)
        return await self._answer(self.connection.fetch(text, *args, timeout=self._timeout))

    async def fetch_row(self, name: str, *args: object) -> Record | None:
        """Run the statement `FILE.NAME` and give its first row."""
        text = statements.statement(name, self.schema)
        return await self._answer(self.connection.fetchrow(text, *args, timeout=self._timeout))

    async def fetch_value(self, name: str, *args: object) -> Any:
        """Run the statement `FILE.NAME` and give the first column of its first row."""
        text = statements.statement(name, self.schema)
        return await self._answer(self.connection.fetchval(text, *args, timeout=self._timeout))

    async def execute(self, text: str) -> None:
        """Run SQL text as it is, several statements at once if need be; for migrations."""
        await self._answer(self.connection.execute(text, timeout=self._timeout))

    async def _answer(self, pending: Awaitable[_Answer]) -> _Answer:
        return await self._db.answer(self.connection, pending)
