"""Queues: created, listed, counted, changed, emptied and removed.

A queue's policy stands in its row and is the same for everybody.
"""

from __future__ import annotations

import difflib
from datetime import timedelta
from typing import TYPE_CHECKING

from pgqrs import arguments, errors, names, rows
from pgqrs.backoff import Backoff
from pgqrs.models import MAX_COUNT, QueueCounts, QueuePolicy, QueueRetention

if TYPE_CHECKING:
    from pgqrs.database import Database
    from pgqrs.models import QueueInfo

#: Archived messages that one statement removes, and messages that one statement purges.
_HISTORY_SLICE = 20_000
_PURGE_SLICE = 5000
_NEAR_NAMES = 3
_MAX_READ_LIMIT = 2**31 - 1
#: The column is a smallint.
_MAX_DEATH_LIMIT = 2**15 - 1
_LEAST_HEARTBEAT_TIMEOUT = timedelta(seconds=15)


async def create(
    db: Database, name: str, policy: QueuePolicy | None = None, retention: QueueRetention | None = None
) -> QueueInfo:
    """Make a queue.

    Raises:
        QueueAlreadyExistsError: there is one of this name.
        ValidationError: the name or a value is not allowed.
    """
    row = await db.fetch_row(
        "queues.create",
        names.queue_name(name),
        *_policy_arguments(QueuePolicy() if policy is None else policy),
        *_retention_arguments(QueueRetention() if retention is None else retention),
    )
    if row is None:
        message = f"There is a queue {name!r} already; use it, or choose another name."
        raise errors.QueueAlreadyExistsError(message)
    return rows.queue(row)


async def get(db: Database, name: str) -> QueueInfo:
    """Read a queue's row.

    Raises:
        QueueNotFoundError: there is none of this name; the message offers names that are near.
        ValidationError: no queue can have this name.
    """
    row = await db.fetch_row("queues.get", names.queue_name(name))
    if row is None:
        raise await not_found(db, name)
    return rows.queue(row)


async def listing(db: Database) -> list[QueueInfo]:
    """Give all queues in the order of their names."""
    return [rows.queue(row) for row in await db.fetch("queues.list")]


async def set_policy(db: Database, name: str, policy: QueuePolicy) -> QueueInfo:
    """Change what the queue's row tells its clients; it holds from their next call on.

    Raises:
        QueueNotFoundError: there is none of this name.
        ValidationError: the name or a value is not allowed.
    """
    row = await db.fetch_row("queues.set_policy", names.queue_name(name), *_policy_arguments(policy))
    if row is None:
        raise await not_found(db, name)
    return rows.queue(row)


async def set_retention(db: Database, name: str, retention: QueueRetention) -> QueueInfo:
    """Change how long the queue keeps what is over; the next reaping goes by it.

    Raises:
        QueueNotFoundError: there is none of this name.
        ValidationError: the name or a duration is not allowed.
    """
    row = await db.fetch_row("queues.set_retention", names.queue_name(name), *_retention_arguments(retention))
    if row is None:
        raise await not_found(db, name)
    return rows.queue(row)


async def counts(db: Database, name: str) -> QueueCounts:
    """Count the queue's messages, up to 10,000 in each bucket.

    Raises:
        QueueNotFoundError: there is none of this name.
        ValidationError: no queue can have this name.
    """
    row = await db.fetch_row("queues.counts", names.queue_name(name), MAX_COUNT + 1)
    if row is None:
        raise await not_found(db, name)
    return rows.counts(row)


async def all_counts(db: Database) -> dict[str, QueueCounts]:
    """Count the messages of every queue, up to 10,000 in each bucket, by the queues' names."""
    return {row["queue_name"]: rows.counts(row) for row in await db.fetch("queues.counts", None, MAX_COUNT + 1)}


async def purge(db: Database, name: str, *, archive: bool = False) -> int:
    """Remove the live messages of a queue, leased ones included; who holds one of them learns it when it is archived.

    What is sent after the call began stays. Messages go in slices of 5,000, each a transaction of its own; where that
    is cut short, calling again goes on. A message that a run of an upstream workflow refers to stays.

    Args:
        db: where.
        name: the queue's name.
        archive: whether archived messages and dead letters are removed too.

    Returns:
        How many messages were removed.

    Raises:
        QueueNotFoundError: there is none of this name.
        ValidationError: no queue can have this name, or `archive` is neither True nor False.
    """
    arguments.flag("archive", archive)
    found = await get(db, name)
    last = await db.fetch_value("queues.last_message")
    removed = 0
    for statement in ("queues.purge_live", "queues.purge_archive") if archive else ("queues.purge_live",):
        while slice_ := await db.fetch(statement, found.id, last, _PURGE_SLICE):
            removed += len(slice_)
    return removed


async def delete(db: Database, name: str, *, seen: QueueInfo | None = None) -> None:
    """Remove a queue with its workers and its archived messages. No live message is ever removed.

    A long history goes in slices, each a transaction of its own; where that is cut short, calling again goes on.

    Args:
        db: where.
        name: the queue's name.
        seen: the row as it was when this was decided; where it has another id or another owner by now, it stays.

    Raises:
        QueueNotEmptyError: there are live messages.
        QueueNotFoundError: there is none of this name, or it is not the one that was seen any more.
        ValidationError: no queue can have this name.
        DatabaseUnavailableError: somebody else keeps the table busy; try again.
    """
    found = await get(db, name)
    other = errors.QueueNotFoundError(
        f"Queue {name!r} is gone or another one by now; somebody else changed it at the same moment. Look at it again."
    )
    if not _is_same(seen, found.id, found.owner):
        raise other
    while len(await db.fetch("queues.delete_history", found.id, _HISTORY_SLICE)) == _HISTORY_SLICE:
        if await db.fetch_value("queues.live_messages", found.id):
            break
    async with db.transaction() as transaction:
        # Whoever sends waits behind us meanwhile, so we give up soon.
        await transaction.fetch("queues.short_wait")
        await transaction.fetch("queues.close_messages")
        row = await transaction.fetch_row("queues.lock", name)
        if row is None or not _is_same(seen, row["id"], row["owner"]):
            raise other
        queue_id = row["id"]
        live = await transaction.fetch_value("queues.live_messages", queue_id)
        if live:
            message = f"Queue {name!r} has {live} live message(s); wait until they are handled, or purge it first."
            raise errors.QueueNotEmptyError(message)
        await transaction.fetch("queues.delete_history", queue_id, None)
        await transaction.fetch("queues.delete_workers", queue_id)
        await transaction.fetch("queues.delete", queue_id)


def _is_same(seen: QueueInfo | None, queue_id: int, owner: str | None) -> bool:
    return seen is None or (seen.id, seen.owner) == (queue_id, owner)


def _policy_arguments(policy: QueuePolicy) -> tuple[object, ...]:
    arguments.instance("policy", policy, QueuePolicy)
    arguments.flag("value of paused", policy.paused)
    arguments.seconds("lease_duration", policy.lease_duration, positive=True)
    arguments.seconds("heartbeat_timeout", policy.heartbeat_timeout)
    if policy.heartbeat_timeout < _LEAST_HEARTBEAT_TIMEOUT:
        message = (
            f"The heartbeat_timeout {policy.heartbeat_timeout} is too short; it is {_LEAST_HEARTBEAT_TIMEOUT} or more, "
            "because heartbeats come every 5 seconds and one that is late says nothing."
        )
        raise errors.ValidationError(message)
    arguments.whole_number("read_limit", policy.read_limit, most=_MAX_READ_LIMIT)
    arguments.whole_number("death_limit", policy.death_limit, most=_MAX_DEATH_LIMIT)
    arguments.seconds("deduplication_window", policy.deduplication_window)
    backoff = arguments.instance("backoff", policy.backoff, Backoff)
    return (
        policy.paused,
        policy.lease_duration,
        policy.read_limit,
        policy.heartbeat_timeout,
        backoff.first,
        backoff.factor,
        backoff.most,
        backoff.jitter,
        policy.death_limit,
        policy.deduplication_window,
    )


def _retention_arguments(retention: QueueRetention) -> tuple[timedelta | None, ...]:
    arguments.instance("retention", retention, QueueRetention)
    durations = {
        "retention of archived messages": retention.archived,
        "retention of dead letters": retention.dead,
        "retention of workers": retention.workers,
    }
    for name, value in durations.items():
        if value is not None:
            arguments.seconds(name, value)
    return tuple(durations.values())


async def not_found(db: Database, name: str) -> errors.QueueNotFoundError:
    """Make the error that says that there is no such queue, with the names that may have been meant."""
    known = {row["queue_name"].casefold(): row["queue_name"] for row in await db.fetch("queues.names")}
    near = [known[match] for match in difflib.get_close_matches(name.casefold(), known, n=_NEAR_NAMES)]
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return errors.QueueNotFoundError(
        f"There is no queue {name!r}; create it with Admin.create_queue, or apply a PgqrsQueue.{meant}"
    )
