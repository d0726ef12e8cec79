"""Many queues and workers at once: read in a few statements and changed in bulk, for who looks after all of a database.

Every function does no harm when it is called twice or by two at a time: each change names what it expects to find, and
what is different by then is left alone. It never decides what should be; that is the caller's part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgqrs import rows
from pgqrs.models import MAX_COUNT, QueueCounts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pgqrs.database import Database
    from pgqrs.models import QueueInfo, QueuePolicy, WorkerId, WorkerInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetQueue:
    """A queue's row."""

    info: QueueInfo
    #: Messages that are neither archived nor dead, up to 10,000; None where they were not asked for.
    live: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetWorker:
    """The row of a worker that is not stopped, with what it holds."""

    info: WorkerInfo
    queue_name: str | None
    #: Who keeps it from working, or nobody.
    owner: str | None
    #: Its last heartbeat is older than the queue's timeout, by the server's clock.
    silent: bool
    #: It is older than half of that.
    stale: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What was found in one database."""

    queues: Mapping[str, FleetQueue]
    workers: tuple[FleetWorker, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCounts:
    """Numbers of one queue."""

    messages: QueueCounts = field(default_factory=QueueCounts)
    ready: int = 0
    suspended: int = 0
    stopped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDeclaration:
    """What a queue's row has to say, and whose it is."""

    name: str
    policy: QueuePolicy
    owner: str
    #: The owner that the row had when this was decided; another one by then wins.
    previous_owner: str | None = None


async def observe(
    db: Database,
    *,
    queues: Collection[str],
    emptying: Collection[str] = (),
    workers: Collection[str] = (),
    pods: Collection[str] = (),
) -> Fleet:
    """Read queues and everything alive in and around them.

    Args:
        db: where.
        queues: names of queues; their live workers are read too.
        emptying: those of them whose live messages are counted.
        workers: names of further workers, `HOST:PORT`.
        pods: uids of pods whose workers are read, whatever queue they serve.
    """
    async with db.transaction() as transaction:
        found = await transaction.fetch("fleet.queues", list(queues), list(emptying))
        alive = await transaction.fetch("fleet.workers", list(queues), list(workers), list(pods))
    return Fleet(
        queues={row["queue_name"]: FleetQueue(info=rows.queue(row), live=row["live"]) for row in found},
        workers=tuple(
            FleetWorker(
                info=rows.worker(row),
                queue_name=row["queue_name"],
                owner=row["owner"],
                silent=bool(row["silent"]),
                stale=bool(row["stale"]),
            )
            for row in alive
        ),
    )


async def counts(db: Database, queues: Collection[str]) -> dict[str, FleetCounts]:
    """Count messages, up to 10,000 of each kind, and workers of queues; archived messages are not counted."""
    names = list(queues)
    async with db.transaction() as transaction:
        messages = await transaction.fetch("fleet.message_counts", names, MAX_COUNT + 1)
        workers = {row["queue_name"]: row for row in await transaction.fetch("fleet.worker_counts", names)}
    found = {}
    for row in messages:
        name = row["queue_name"]
        crew = workers.get(name)
        found[name] = FleetCounts(
            messages=rows.counts(row),
            ready=crew["ready"] if crew else 0,
            suspended=crew["suspended"] if crew else 0,
            stopped=crew["stopped"] if crew else 0,
        )
    return found


async def declare(db: Database, declarations: Sequence[QueueDeclaration]) -> None:
    """Create the queues that are missing, and set policy and owner of those that are there."""
    if not declarations:
        return
    columns = [
        [d.name for d in declarations],
        [d.policy.paused for d in declarations],
        [d.policy.lease_duration for d in declarations],
        [d.policy.read_limit for d in declarations],
        [d.policy.heartbeat_timeout for d in declarations],
        [d.owner for d in declarations],
    ]
    async with db.transaction() as transaction:
        await transaction.fetch("fleet.declare", *columns, [d.previous_owner for d in declarations])
        await transaction.fetch("fleet.create", *columns)


async def disown(db: Database, owners: Mapping[str, str]) -> None:
    """Leave queues to themselves: their rows stay as they are and belong to nobody.

    Args:
        db: where.
        owners: by the queue's name who gives it up; a row of somebody else is left alone.
    """
    if owners:
        await db.fetch("fleet.disown", list(owners.keys()), list(owners.values()))


async def interrupt(db: Database, owners: Mapping[WorkerId, str]) -> None:
    """Give workers no more messages; what they hold is finished. Workers of a pod that ends are left alone.

    Args:
        db: where.
        owners: by the worker's id who holds it back.
    """
    if owners:
        await db.fetch("fleet.interrupt", list(owners.keys()), list(owners.values()))


async def suspend(db: Database, worker_ids: Collection[WorkerId]) -> None:
    """Suspend those of these interrupted workers that hold nothing any more."""
    if not worker_ids:
        return
    async with db.transaction() as transaction:
        await transaction.fetch("fleet.lock", list(worker_ids))
        await transaction.fetch("fleet.suspend", list(worker_ids))


async def resume(db: Database, worker_ids: Collection[WorkerId]) -> None:
    """Let workers work again, and let go of them; those of a pod that ends are left alone."""
    if worker_ids:
        await db.fetch("fleet.resume", list(worker_ids))


async def stop_silent(db: Database, worker_ids: Collection[WorkerId], *, reason: str) -> dict[WorkerId, int]:
    """Stop those of these workers that still are silent for longer than their queue's heartbeat timeout.

    Returns:
        How many messages each stopped worker held.
    """
    return await _stop_if(db, "fleet.lock_silent", worker_ids, reason)


async def stop_idle(db: Database, worker_ids: Collection[WorkerId], *, reason: str) -> dict[WorkerId, int]:
    """Stop those of these workers that are interrupted or suspended and hold nothing.

    Returns:
        How many messages each stopped worker held, which is none.
    """
    return await _stop_if(db, "fleet.lock_idle", worker_ids, reason)


async def _stop_if(db: Database, condition: str, worker_ids: Collection[WorkerId], reason: str) -> dict[WorkerId, int]:
    if not worker_ids:
        return {}
    async with db.transaction() as transaction:
        ids = [row["id"] for row in await transaction.fetch(condition, list(worker_ids))]
        await transaction.fetch("workers.stop", ids, reason)
        released = {row["id"]: row["released"] for row in await transaction.fetch("workers.release_held", ids)}
    return {worker_id: released.get(worker_id, 0) for worker_id in ids}
