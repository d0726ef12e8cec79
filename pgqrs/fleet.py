"""Many queues and workers at once: read in a few statements and changed in bulk, for who looks after all of a database.

Every function does no harm when it is called twice or by two at a time: each change names what it expects to find, and
what is different by then is left alone. What somebody else has locked is left to the next call: one row must not hold
up the others. It never decides what should be; that is the caller's part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from pgqrs import errors, lifecycle, rows
from pgqrs.models import MAX_COUNT, QueueCounts, QueueId, QueueRetention, Timestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from pgqrs.database import Database, Record
    from pgqrs.models import QueueInfo, QueuePolicy, WorkerId, WorkerInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetQueue:
    """A queue's row."""

    info: QueueInfo
    #: Messages that are neither archived nor dead, up to 10,000; None where they were not asked for.
    live: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetWorker:
    """The row of a worker that is not stopped, with what it holds. Its heartbeat is told only where it is silent."""

    info: WorkerInfo
    queue_name: str | None
    #: Who keeps it from working, or nobody.
    owner: str | None
    #: Its last heartbeat is older than the queue's timeout, by the server's clock.
    silent: bool
    #: It is older than half of that.
    stale: bool
    #: Its process knows nothing of pods, and the pod's sidecar took the row over.
    adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What was found in one database."""

    queues: Mapping[str, FleetQueue]
    workers: tuple[FleetWorker, ...]
    #: What this was read from.
    records: Sequence[Sequence[Record]] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCounts:
    """Numbers of one queue."""

    messages: QueueCounts = field(default_factory=QueueCounts)
    #: For how long the oldest ready message has been ready, and since when; None where there is none.
    oldest: timedelta | None = None
    oldest_since: Timestamp | None = None
    ready: int = 0
    suspended: int = 0
    #: Up to 10,000.
    stopped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEnd:
    """How a container of a pod ended, as its node says."""

    pod_uid: str
    container: str
    began: datetime
    ended: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDeclaration:
    """What a queue's row has to say, and whose it is."""

    name: str
    policy: QueuePolicy
    owner: str
    #: The owner that the row had when this was decided; another one by then wins.
    previous_owner: str | None = None
    #: The id that a row had which is gone, so that its messages are found again; one that is not free is not taken.
    former_id: int | None = None
    #: How long what is over is kept; None leaves what the row says.
    retention: QueueRetention | None = None


async def observe(
    db: Database,
    *,
    queues: Collection[str],
    emptying: Collection[str] = (),
    workers: Collection[str] = (),
    pods: Collection[str] = (),
    before: Fleet | None = None,
) -> Fleet:
    """Read queues and everything alive in and around them.

    Args:
        db: where.
        queues: names of queues; their live workers are read too.
        emptying: those of them whose live messages are counted.
        workers: names of further workers, `HOST:PORT`.
        pods: uids of pods whose workers are read, whatever queue they serve.
        before: what was found the last time; where all is the same, this very value is given.
    """
    async with db.transaction() as transaction:
        found = await transaction.fetch("fleet.queues", list(queues), list(emptying))
        alive = await transaction.fetch("fleet.workers", list(queues), list(workers), list(pods))
    if before is not None and before.records == (found, alive):
        return before
    return Fleet(
        records=(found, alive),
        queues={row["queue_name"]: FleetQueue(info=rows.queue(row), live=row["live"]) for row in found},
        workers=tuple(
            FleetWorker(
                info=rows.worker(row),
                queue_name=row["queue_name"],
                owner=row["owner"],
                silent=bool(row["silent"]),
                stale=bool(row["stale"]),
                adopted=row["adopted"],
            )
            for row in alive
        ),
    )


async def counts(db: Database, queues: Collection[str]) -> dict[str, FleetCounts]:
    """Count messages and workers of queues, up to 10,000 of each kind; archived messages are not counted."""
    names = list(queues)
    async with db.transaction() as transaction:
        messages = await transaction.fetch("fleet.message_counts", names, MAX_COUNT + 1)
        workers = {row["queue_name"]: row for row in await transaction.fetch("fleet.worker_counts", names, MAX_COUNT)}
    found = {}
    for row in messages:
        name = row["queue_name"]
        crew = workers.get(name)
        found[name] = FleetCounts(
            messages=rows.counts(row),
            oldest=row["oldest"],
            oldest_since=None if row["oldest_since"] is None else Timestamp.of(row["oldest_since"]),
            ready=crew["ready"] if crew else 0,
            suspended=crew["suspended"] if crew else 0,
            stopped=crew["stopped"] if crew else 0,
        )
    return found


async def declare(db: Database, declarations: Sequence[QueueDeclaration]) -> dict[str, QueueId]:
    """Create the queues that are missing, and set policy, retention and owner of those that are there.

    Returns:
        By their names the ids of those that were written; a row that has another owner by now is kept as it is.
    """
    if not declarations:
        return {}
    kept = [d.retention or QueueRetention() for d in declarations]
    columns = [
        [d.name for d in declarations],
        [d.policy.paused for d in declarations],
        [d.policy.lease_duration for d in declarations],
        [d.policy.read_limit for d in declarations],
        [d.policy.heartbeat_timeout for d in declarations],
        [d.owner for d in declarations],
        [one.archived for one in kept],
        [one.dead for one in kept],
        [one.workers for one in kept],
        [d.policy.backoff.first for d in declarations],
        [d.policy.backoff.factor for d in declarations],
        [d.policy.backoff.most for d in declarations],
        [d.policy.backoff.jitter for d in declarations],
        [d.policy.death_limit for d in declarations],
        [d.policy.deduplication_window for d in declarations],
    ]
    owners = [d.previous_owner for d in declarations]
    retains = [d.retention is not None for d in declarations]
    gone = [d for d in declarations if d.former_id is not None]
    async with db.transaction() as transaction:
        if gone:
            ids, names = [d.former_id for d in gone], [d.name for d in gone]
            await transaction.fetch("fleet.bring_back", ids, names, [d.previous_owner for d in gone])
        changed = await transaction.fetch("fleet.declare", *columns, owners, retains)
        created = await transaction.fetch("fleet.create", *columns)
    return {row["queue_name"]: QueueId(row["id"]) for row in (*changed, *created)}


async def disown(db: Database, owners: Mapping[str, str]) -> None:
    """Leave queues to themselves: their rows stay as they are and belong to nobody.

    Args:
        db: where.
        owners: by the queue's name who gives it up; a row of somebody else is left alone.
    """
    if owners:
        await db.fetch("fleet.disown", list(owners.keys()), list(owners.values()))


async def interrupt(db: Database, owners: Mapping[WorkerId, str]) -> set[WorkerId]:
    """Give workers no more messages; what they hold is finished. Workers of a pod that ends are left alone.

    Args:
        db: where.
        owners: by the worker's id who holds it back.

    Returns:
        Those that were changed.
    """
    if not owners:
        return set()
    return {row["id"] for row in await db.fetch("fleet.interrupt", list(owners.keys()), list(owners.values()))}


async def suspend(db: Database, worker_ids: Collection[WorkerId]) -> None:
    """Suspend those of these interrupted workers that hold nothing any more."""
    if not worker_ids:
        return
    async with db.transaction() as transaction:
        locked = [row["id"] for row in await transaction.fetch("fleet.lock", list(worker_ids))]
        await transaction.fetch("fleet.suspend", locked)


async def resume(db: Database, worker_ids: Collection[WorkerId]) -> set[WorkerId]:
    """Let workers work again, and let go of them; those of a pod that ends are left alone.

    Returns:
        Those that were changed.
    """
    if not worker_ids:
        return set()
    return {row["id"] for row in await db.fetch("fleet.resume", list(worker_ids))}


async def stop(
    db: Database, worker_ids: Collection[WorkerId], *, reason: str, died: bool = False
) -> dict[WorkerId, int]:
    """Stop those of these workers that are not stopped.

    Args:
        db: where.
        worker_ids: whom.
        reason: why, for the rows' history.
        died: their processes died by themselves; see `lifecycle.stop`.

    Returns:
        How many messages each stopped worker held.
    """
    return await _stop_if(db, "fleet.lock_live", worker_ids, reason, died=died)


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


def names_no_database(error: BaseException) -> bool:
    """Tell whether an error says that the server runs and that there is no such database."""
    return isinstance(error, errors.DatabaseError) and isinstance(error.__cause__, asyncpg.InvalidCatalogNameError)


async def has_no_queues(db: Database) -> bool:
    """Tell whether there is no table of queues, so that nothing of any queue can be left."""
    return "pgqrs_queues" not in {row["name"] for row in await db.fetch("schema.tables", db.schema)}


async def explain_deaths(db: Database, ends: Collection[ContainerEnd]) -> None:
    """Write how containers ended on the workers of which was only known that they died, and on their dead letters.

    Doing it twice does no harm.
    """
    if not ends:
        return
    await db.fetch(
        "workers.explain_deaths",
        [end.pod_uid for end in ends],
        [end.container for end in ends],
        [end.began.timestamp() for end in ends],
        [end.ended.timestamp() for end in ends],
        [end.reason for end in ends],
        lifecycle.DIED,
    )


async def _stop_if(
    db: Database, condition: str, worker_ids: Collection[WorkerId], reason: str, *, died: bool = False
) -> dict[WorkerId, int]:
    if not worker_ids:
        return {}
    async with db.transaction() as transaction:
        ids = [row["id"] for row in await transaction.fetch(condition, list(worker_ids))]
        return await lifecycle.stop_locked(transaction, ids, reason, died=died)
