"""Queues: created, listed, counted, changed and removed.

A queue's policy stands in its row and is the same for everybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqrs import errors, names, rows
from pgqrs.models import QueueCounts, QueuePolicy

if TYPE_CHECKING:
    from pgqrs.database import Database
    from pgqrs.models import QueueInfo

#: Archived messages that one statement removes.
_HISTORY_SLICE = 20_000


async def create(db: Database, name: str, policy: QueuePolicy | None = None) -> QueueInfo:
    """Make a queue.

    Raises:
        QueueAlreadyExistsError: there is one of this name.
        ValidationError: the name is not allowed.
    """
    policy = policy or QueuePolicy()
    row = await db.fetch_row("queues.create", names.queue_name(name), *_policy_arguments(policy))
    if row is None:
        message = f"There is a queue {name!r} already; use it, or choose another name."
        raise errors.QueueAlreadyExistsError(message)
    return rows.queue(row)


async def get(db: Database, name: str) -> QueueInfo:
    """Read a queue's row.

    Raises:
        QueueNotFoundError: there is none of this name.
    """
    row = await db.fetch_row("queues.get", name)
    if row is None:
        raise _not_found(name)
    return rows.queue(row)


async def listing(db: Database) -> list[QueueInfo]:
    """Give all queues in the order of their names."""
    return [rows.queue(row) for row in await db.fetch("queues.list")]


async def set_policy(db: Database, name: str, policy: QueuePolicy) -> QueueInfo:
    """Change what the queue's row tells its clients; it holds from their next call on.

    Raises:
        QueueNotFoundError: there is none of this name.
    """
    row = await db.fetch_row("queues.set_policy", name, *_policy_arguments(policy))
    if row is None:
        raise _not_found(name)
    return rows.queue(row)


async def counts(db: Database, name: str) -> QueueCounts:
    """Count the queue's messages; each is in exactly one bucket."""
    row = await db.fetch_row("queues.counts", name)
    return QueueCounts(**dict(row)) if row else QueueCounts()


async def delete(db: Database, name: str) -> None:
    """Remove a queue with its workers and its archived messages. No live message is ever removed.

    A long history goes in slices, each a transaction of its own; where that is cut short, calling again goes on.

    Raises:
        QueueNotEmptyError: there are live messages.
        QueueNotFoundError: there is none of this name.
        DatabaseUnavailableError: somebody else keeps the table busy; try again.
    """
    found = await get(db, name)
    while len(await db.fetch("queues.delete_history", found.id, _HISTORY_SLICE)) == _HISTORY_SLICE:
        if await db.fetch_value("queues.live_messages", found.id):
            break
    async with db.transaction() as transaction:
        # Whoever sends waits behind us meanwhile, so we give up soon.
        await transaction.fetch("queues.short_wait")
        await transaction.fetch("queues.close_messages")
        queue_id = await transaction.fetch_value("queues.lock", name)
        if queue_id is None:
            raise _not_found(name)
        live = await transaction.fetch_value("queues.live_messages", queue_id)
        if live:
            message = f"Queue {name!r} has {live} live message(s); wait until they are handled, or purge it first."
            raise errors.QueueNotEmptyError(message)
        await transaction.fetch("queues.delete_history", queue_id, None)
        await transaction.fetch("queues.delete_workers", queue_id)
        await transaction.fetch("queues.delete", queue_id)


def _policy_arguments(policy: QueuePolicy) -> tuple[object, ...]:
    return policy.paused, policy.lease_duration, policy.read_limit, policy.heartbeat_timeout


def _not_found(name: str) -> errors.QueueNotFoundError:
    return errors.QueueNotFoundError(f"There is no queue {name!r}; create it with Admin.create_queue.")
