"""The way to PostgreSQL: one bounded pool, opened at the first call, and errors in our own words.

Every call has a deadline. Nothing here relies on the state of a session, so PgBouncer in transaction mode may stand
between: tables are named with their schema, no statement is prepared by name, locks end with their transaction.
No error, log line or `repr` holds the password.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import unquote, urlsplit

import asyncpg

from pgqrs import errors, names, statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    Record: TypeAlias = asyncpg.Record
    Connection: TypeAlias = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

#: How long a new connection may take, in seconds.
_CONNECT_TIMEOUT = 5.0
#: SQLSTATE classes and codes after which the same call may succeed later, on another connection.
_TRANSIENT_CLASSES = ("08", "53", "57P")
_READ_ONLY = "25006"
#: The end of `HOST`, `HOST:PORT`, `[IPv6]` or `[IPv6]:PORT`.
_PORT = re.compile(r"^(?:\[[^\]]*\]|[^:/]*)(?::[0-9]{0,5})?$")
_UNDEFINED = ("42P01", "42703", "3F000", "42704")


def describe(dsn: str) -> str:
    """Name a database for people, as `HOST:PORT/DATABASE`, without user and password."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return "the database"
    return f"{parts.netloc.rpartition('@')[2] or 'localhost'}/{unquote(parts.path.lstrip('/'))}"


def check_dsn(dsn: str) -> str:
    """Give the address back if it is one of PostgreSQL; several hosts may stand in it, with commas between.

    Raises:
        ConfigurationError: it is not; the message does not quote it, because it may hold a password.
    """
    try:
        parts = urlsplit(dsn)
        ports = [_PORT.search(host) for host in parts.netloc.rpartition("@")[2].split(",")]
    except ValueError:
        ports, parts = [], urlsplit("")
    if parts.scheme not in {"postgresql", "postgres"} or not all(ports):
        message = (
            "The DSN is not a PostgreSQL address; it has the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE. "
            "Special characters in user and password are written as in URLs, such as %40 for @."
        )
        raise errors.ConfigurationError(message)
    return dsn


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what asyncpg raises into the errors of this library, with the original as the cause.

    Raises:
        DatabaseUnavailableError: no connection, no answer in time, or a server that is shutting down or read-only.
        SchemaError: a table or column is missing.
        DatabaseError: anything else that PostgreSQL refuses.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        code = error.sqlstate or ""
        if code == _READ_ONLY or code.startswith(_TRANSIENT_CLASSES):
            message = (
                f"PostgreSQL at {where} cannot serve now ({type(error).__name__}, SQLSTATE {code}); try again later."
            )
            raise errors.DatabaseUnavailableError(message) from error
        if code in _UNDEFINED:
            message = f"The tables of pgqrs at {where} are not there or not complete ({error}); run `Admin.install()`."
            raise errors.SchemaError(message) from error
        message = f"PostgreSQL at {where} refused the statement: {error} (SQLSTATE {code})."
        raise errors.DatabaseError(message) from error
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # TimeoutError is an OSError. The text of these may quote the DSN, so only their kind is told.
        message = (
            f"PostgreSQL at {where} cannot be reached ({type(error).__name__}); check that it runs and is reachable."
        )
        raise errors.DatabaseUnavailableError(message) from error


class Database:
    """A database with pgqrs tables in one of its schemas."""

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "public",
        max_connections: int = 4,
        application_name: str = "pgqrs",
        timeout: float = 30.0,
    ) -> None:
        """Remember where it is; nothing is opened before the first call.

        Args:
            dsn: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
            schema: where the tables are.
            max_connections: the most connections at a time.
            application_name: what `pg_stat_activity` shows.
            timeout: seconds that one call may take, waiting for a connection included.

        Raises:
            ConfigurationError: the DSN is not a PostgreSQL address.
            ValidationError: the schema's name is not allowed.
        """
        self.schema = names.schema_name(schema)
        self.where = describe(dsn)
        self.timeout = timeout
        self._dsn = check_dsn(dsn)
        self._max_connections = max_connections
        self._application_name = application_name
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
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

    async def _open(self) -> asyncpg.Pool:
        if self._closed:
            message = f"{self!r} is closed; make a new one."
            raise errors.ConfigurationError(message)
        async with self._opening:
            if self._pool is None:
                try:
                    self._pool = await asyncpg.create_pool(
                        self._dsn,
                        min_size=0,
                        max_size=self._max_connections,
                        timeout=_CONNECT_TIMEOUT,
                        command_timeout=self.timeout,
                        # PgBouncer before 1.21 hands one client's prepared statements to another.
                        statement_cache_size=0,
                        server_settings={"application_name": self._application_name},
                    )
                except ValueError as error:
                    message = f"The DSN of {self.where} is malformed; the form is postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
                    raise errors.ConfigurationError(message) from error
        return self._pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection of the pool.

        Raises:
            DatabaseUnavailableError: none could be had in time.
        """
        with translated(self.where):
            pool = await self._open()
            async with asyncio.timeout(self.timeout), pool.acquire() as connection:
                try:
                    yield connection
                except asyncpg.ReadOnlySQLTransactionError:
                    # The server became a replica: every connection of the pool leads to the wrong one.
                    await pool.expire_connections()
                    raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run several statements as one; an exception rolls all of them back."""
        async with self.connection() as connection, connection.transaction():
            yield Transaction(connection, self.schema)

    async def fetch(self, name: str, *args: object) -> list[Record]:
        """Run the statement `FILE.NAME` and give all its rows."""
        async with self.connection() as connection:
            return await connection.fetch(statements.statement(name, self.schema), *args)

    async def fetch_row(self, name: str, *args: object) -> Record | None:
        """Run the statement `FILE.NAME` and give its first row."""
        async with self.connection() as connection:
            return await connection.fetchrow(statements.statement(name, self.schema), *args)

    async def fetch_value(self, name: str, *args: object) -> Any:
        """Run the statement `FILE.NAME` and give the first column of its first row."""
        async with self.connection() as connection:
            return await connection.fetchval(statements.statement(name, self.schema), *args)

    async def aclose(self) -> None:
        """Give all connections back; those that do not end in 5 seconds are cut."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(5.0):
                await pool.close()
        except TimeoutError:
            pool.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            # A connection that broke needs no goodbye.
            pool.terminate()


class Transaction:
    """The statements of one transaction."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self.connection = connection
        self.schema = schema

    async def fetch(self, name: str, *args: object) -> list[Record]:
        """Run the statement `FILE.NAME` and give all its rows."""
        return await self.connection.fetch(statements.statement(name, self.schema), *args)

    async def fetch_row(self, name: str, *args: object) -> Record | None:
        """Run the statement `FILE.NAME` and give its first row."""
        return await self.connection.fetchrow(statements.statement(name, self.schema), *args)

    async def fetch_value(self, name: str, *args: object) -> Any:
        """Run the statement `FILE.NAME` and give the first column of its first row."""
        return await self.connection.fetchval(statements.statement(name, self.schema), *args)

    async def execute(self, text: str) -> None:
        """Run SQL text as it is, several statements at once if need be; for migrations."""
        await self.connection.execute(text)
