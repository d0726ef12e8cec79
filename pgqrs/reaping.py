"""What has to be cleared away from time to time: by the operator, a command, a cron job, or all of them at once.

Everything goes in bounded batches, each a transaction of its own, and by the server's clock. Two that reap at once
share the work: what one has locked the other skips. No live message is ever removed; what a silent worker held is free
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from pgqrs import arguments, errors, lifecycle, queues

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import timedelta

    from pgqrs.database import Database
    from pgqrs.models import WorkerId

#: Rows that one transaction changes.
_BATCH = 1000
#: Workers that one transaction stops; each may hold many messages.
_WORKERS_BATCH = 100
#: Workers that one transaction removes while upstream's foreign keys are there: for each, PostgreSQL looks through all
#: messages.
_REFERRED_BATCH = 10
#: Batches of one kind that one pass over many queues removes; the next pass goes on.
_PASS_BATCHES = 20
_SILENT = "silent for longer than the heartbeat timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaped:
    """What one reaping did.

    Example:
        ```python
        reaped = await admin.reap()
        print(f"{len(reaped.silent_workers)} silent workers were stopped")
        ```
    """

    #: By the id of each worker that was stopped how many messages it held.
    silent_workers: Mapping[WorkerId, int] = field(default_factory=dict)
    #: Messages that became dead letters.
    exhausted_messages: int = 0
    #: Rows that were removed.
    archived_messages: int = 0
    dead_letters: int = 0
    stopped_workers: int = 0


async def reap(db: Database, *, queue: str | None = None) -> Reaped:
    """Do all that is due, in this order: silent workers, exhausted messages, and what each queue keeps no longer.

    Args:
        db: where.
        queue: this queue only.

    Raises:
        QueueNotFoundError: there is no such queue.
    """
    return Reaped(
        silent_workers=await silent_workers(db, queue=queue),
        exhausted_messages=await exhausted_messages(db, queue=queue),
        archived_messages=await archived_messages(db, queue=queue),
        dead_letters=await dead_letters(db, queue=queue),
        stopped_workers=await stopped_workers(db, queue=queue),
    )


async def exhausted_of(db: Database, names: Collection[str]) -> int:
    """Make dead letters of exhausted messages of these queues, 20,000 at most; see `exhausted_messages`."""
    return await _pass(db, "reaping.exhausted", list(names), _BATCH)


async def archived_of(db: Database, names: Collection[str]) -> int:
    """Remove archived messages that these queues keep no longer, 20,000 at most; see `archived_messages`."""
    return await _pass(db, "reaping.archived", list(names), None, _BATCH)


async def dead_letters_of(db: Database, names: Collection[str]) -> int:
    """Remove dead letters that these queues keep no longer, 20,000 at most; see `archived_messages`."""
    return await _pass(db, "reaping.dead", list(names), None, _BATCH)


async def stopped_workers_of(db: Database, names: Collection[str]) -> int:
    """Remove stopped workers that these queues keep no longer, 20,000 at most; see `stopped_workers`."""
    referred = await messages_refer_to_workers(db)
    batch = _REFERRED_BATCH if referred else _BATCH
    return await _pass(db, "reaping.workers", list(names), None, batch, referred)


async def archived_messages(db: Database, *, queue: str | None = None, older_than: timedelta | None = None) -> int:
    """Remove messages that were archived longer ago than this; dead letters stay.

    What a run of an upstream workflow refers to stays too.

    Args:
        db: where.
        queue: this queue only.
        older_than: how long ago, and the keys of what goes are free then; each queue's own retention if not given, but
            at least its `deduplication_window`, and a queue without retention keeps them.

    Returns:
        How many were removed.

    Raises:
        QueueNotFoundError: there is no such queue.
        ValidationError: the duration is negative.
    """
    return await _remove(db, "reaping.archived", queue, older_than)


async def dead_letters(db: Database, *, queue: str | None = None, older_than: timedelta | None = None) -> int:
    """Remove messages that died longer ago than this; see `archived_messages` for the arguments and the rest."""
    return await _remove(db, "reaping.dead", queue, older_than)


async def stopped_workers(db: Database, *, queue: str | None = None, older_than: timedelta | None = None) -> int:
    """Remove the rows of workers that stopped longer ago than this, also of those that touched messages.

    Without a queue and with a duration those that serve no queue go too. As long as the `post` part of the schema is
    not installed, workers that messages refer to stay, and the rest takes long. For the arguments see
    `archived_messages`.
    """
    await _check(db, queue, older_than)
    referred = await messages_refer_to_workers(db)
    batch = _REFERRED_BATCH if referred else _BATCH
    return await _repeat(db, "reaping.workers", _only(queue), older_than, batch, referred)


async def messages_refer_to_workers(db: Database) -> bool:
    """Tell whether upstream's foreign keys are there, which hold every worker that a message refers to."""
    return bool(await db.fetch_value("reaping.messages_refer_to_workers", db.schema))


async def delete_worker(db: Database, worker_id: int) -> None:
    """Remove a stopped worker's row.

    Raises:
        WorkerNotFoundError: there is none of this id.
        InvalidStateTransitionError: it is not stopped.
        DatabaseError: something refers to it by a foreign key; the message says what.
        ValidationError: it is no id.
    """
    try:
        deleted = await db.fetch_value("workers.delete", arguments.row_id(worker_id, "worker"))
    except errors.DatabaseError as error:
        if not isinstance(error.__cause__, asyncpg.ForeignKeyViolationError):
            raise
        message = (
            f"Worker {worker_id} cannot be deleted, because messages or runs of upstream's workflows refer to it. The "
            'foreign keys of messages go with `Admin.install(phase="post")`; what runs refer to stays.'
        )
        raise errors.DatabaseError(message) from error
    if deleted is None:
        status = await lifecycle.status(db, worker_id)
        raise errors.InvalidStateTransitionError(status, status, "only a stopped worker can be deleted; stop it first")


async def silent_workers(db: Database, *, queue: str | None = None) -> dict[WorkerId, int]:
    """Stop workers whose last heartbeat is older than their queue's heartbeat timeout; what they held is free at once.

    Right after an outage of the database everybody is silent: give them the time of a heartbeat before calling this. A
    worker that was stopped while its process lives gets `WorkerReplacedError`, and does no harm.

    Returns:
        How many messages each of them held.

    Raises:
        QueueNotFoundError: there is no such queue.
    """
    await _check(db, queue)
    stopped: dict[WorkerId, int] = {}
    while True:
        async with db.transaction() as transaction:
            ids = [row["id"] for row in await transaction.fetch("reaping.lock_silent", _only(queue), _WORKERS_BATCH)]
            if not ids:
                return stopped
            stopped |= await lifecycle.stop_locked(transaction, ids, _SILENT)


async def exhausted_messages(db: Database, *, queue: str | None = None) -> int:
    """Make dead letters of messages that nobody holds any more and that were leased as often as their queue allows.

    A dequeue that meets them does the same; this is for queues that nobody reads from at the moment. All those are
    found whose lease ran out, and of those that were released the ones among the first hundred of their queue.

    Returns:
        How many they were.

    Raises:
        QueueNotFoundError: there is no such queue.
    """
    await _check(db, queue)
    return await _repeat(db, "reaping.exhausted", _only(queue), _BATCH)


async def _remove(db: Database, statement: str, queue: str | None, older_than: timedelta | None) -> int:
    await _check(db, queue, older_than)
    return await _repeat(db, statement, _only(queue), older_than, _BATCH)


async def _repeat(db: Database, statement: str, *args: object) -> int:
    total = 0
    while found := await db.fetch(statement, *args):
        total += len(found)
    return total


async def _pass(db: Database, statement: str, *args: object) -> int:
    total = 0
    for _ in range(_PASS_BATCHES):
        found = await db.fetch(statement, *args)
        total += len(found)
        if not found:
            break
    return total


def _only(queue: str | None) -> list[str] | None:
    return None if queue is None else [queue]


async def _check(db: Database, queue: str | None, older_than: timedelta | None = None) -> None:
    if older_than is not None:
        arguments.seconds("age older_than", older_than)
    if queue is not None:
        await queues.get(db, queue)
