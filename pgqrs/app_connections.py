"""Sending on a connection of the app's own, so that a message commits and rolls back with what else is done there."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pgqrs import errors, statements
from pgqrs.connecting import CLOSE_SECONDS
from pgqrs.database import is_lost, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pgqrs.batches import Batch
    from pgqrs.database import Database
    from pgqrs.models import MessageId

    #: A connection of the app's own, or one lent by its pool.
    AppConnection: TypeAlias = asyncpg.Connection | PoolConnectionProxy


def check(connection: object) -> None:
    """Refuse what is no connection, or none any more.

    Raises:
        ValidationError: it is of another type, or closed.
    """
    if not isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
        message = (
            f"connection is {type(connection).__name__}; it is an asyncpg connection. SQLAlchemy has one below: "
            "(await connection.get_raw_connection()).driver_connection."
        )
        raise errors.ValidationError(message)
    if connection.is_closed():
        message = "The connection is closed; nothing can be sent on it. Open one, or leave `connection` out."
        raise errors.ValidationError(message)


async def insert(db: Database, connection: AppConnection, queue_id: int, batch: Batch) -> list[MessageId]:
    """Add messages within the time for one call; an empty list says that there is no such queue.

    Nobody takes a second look at the connection: it may lead another way to the server than ours, through a pooler for
    example, where its backend cannot be found.
    """

    async def fetch(name: str, *args: object) -> list[asyncpg.Record]:
        return await connection.fetch(statements.statement(name, db.schema), *args)

    with translated(db.where):
        async with asyncio.timeout(db.timeout):
            if not batch.keyed:
                return await batch.insert(fetch, queue_id)
            async with _all_or_none(connection):
                return await batch.insert_all(fetch, queue_id)


@asynccontextmanager
async def _all_or_none(connection: AppConnection) -> AsyncIterator[None]:
    """Run several statements as one: a transaction, or a savepoint where the app has a transaction.

    A connection that does not roll back in time is cut: what the app does next would commit a part of them.
    """
    block = connection.transaction()
    with _cut_if_cancelled(connection, unless=connection.is_in_transaction()):
        await block.start()
    try:
        yield
    except BaseException:
        # What went wrong first is raised, whatever becomes of this. TimeoutError is an OSError.
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with asyncio.timeout(CLOSE_SECONDS):
                with _cut_if_cancelled(connection):
                    await block.rollback()
        raise
    await block.commit()


@contextlib.contextmanager
def _cut_if_cancelled(connection: AppConnection, *, unless: bool = False) -> Iterator[None]:
    """Cut a connection of which nobody knows any more whether it is in a transaction of ours."""
    try:
        yield
    except asyncio.CancelledError:
        if not unless and not is_lost(connection):
            connection.terminate()
        raise
