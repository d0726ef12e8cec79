"""The life of a worker row: registered, kept alive, suspended, drained, stopped.

These functions serve whoever looks after a worker: the worker itself, its sidecar, the operator, the command. Each
transition is one statement or one transaction; leases are freed in the transaction that stops a worker, never later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from pgqrs import arguments, errors, names, queues, rows
from pgqrs.models import Timestamp, WorkerId, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import timedelta

    from pgqrs.database import Database, Transaction
    from pgqrs.models import PodIdentity, QueueInfo, WorkerInfo

#: How often a registration is tried again because somebody else took the same name or number at the same moment.
_REGISTRATION_ATTEMPTS = 20
_REPLACED = "replaced by a new registration"
#: The reason of who ended without a word, as a sidecar sees it. What is learnt later of how that came is added to it.
DIED = "process died"


async def register(
    db: Database,
    queue: str | None,
    *,
    hostname: str,
    port: int | None = None,
    replace: bool = False,
    pod: PodIdentity | None = None,
) -> WorkerInfo:
    """Make a row for a worker and give it.

    A row that holds the same name is kept under another name when it is stopped, silent for longer than its queue's
    heartbeat timeout, or when `replace` is set; what it had leased is free from then on. The new row has a new id, and
    the id fences: the old process can archive nothing any more. Where somebody held the old worker back (a
    `PgqrsWorker` that says Suspended), the new one starts suspended.

    Args:
        db: where.
        queue: the queue's name, or None for a worker that serves none.
        hostname: the first half of its name.
        port: the second half; None takes the smallest number that no worker of this host holds.
        replace: take the name even from a worker that is alive.
        pod: the pod behind it.

    Raises:
        QueueNotFoundError: there is no such queue.
        WorkerAlreadyActiveError: somebody alive has this name.
        ValidationError: an argument is not allowed.
    """
    arguments.flag("value of replace", replace)
    for attempt in range(_REGISTRATION_ATTEMPTS):
        try:
            async with db.transaction() as transaction:
                found = await _queue(transaction, queue)
                number = await transaction.fetch_value("workers.free_port", hostname) if port is None else port
                name = names.worker_name(hostname, number)
                owner = await _take_name(transaction, name, replace=replace)
                if pod is not None:
                    owner = await transaction.fetch_value("workers.held_back_by", pod.uid)
                row = await transaction.fetch_row(
                    "workers.insert",
                    name,
                    found.id if found else None,
                    pod.uid if pod else None,
                    pod.name if pod else None,
                    pod.namespace if pod else None,
                    pod.cluster if pod else None,
                    pod.container if pod else None,
                    owner,
                )
                assert row is not None  # noqa: S101 - INSERT ... RETURNING gives a row or raises
                return rows.worker(row)
        except errors.QueueNotFoundError:
            raise await queues.not_found(db, queue or "") from None
        except errors.WorkerAlreadyActiveError:
            # With a number of our own choice this is only a lost race for it.
            if port is not None:
                raise
        except errors.DatabaseError as error:
            lost_race = isinstance(error.__cause__, asyncpg.UniqueViolationError)
            if not lost_race or attempt == _REGISTRATION_ATTEMPTS - 1:
                raise
    message = f"No free number for a worker on {hostname} after {_REGISTRATION_ATTEMPTS} attempts; try again."
    raise errors.DatabaseUnavailableError(message)


async def _queue(transaction: Transaction, name: str | None) -> QueueInfo | None:
    if name is None:
        return None
    row = await transaction.fetch_row("queues.get", name)
    if row is None:
        raise errors.QueueNotFoundError
    return rows.queue(row)


async def _take_name(transaction: Transaction, name: str, *, replace: bool) -> str | None:
    """Free the name, and give who held the worker back that had it."""
    holder = await transaction.fetch_row("workers.holder", name)
    if holder is None:
        return None
    if holder["alive"] and not replace:
        raise errors.WorkerAlreadyActiveError(
            name, active_since=Timestamp.of(holder["started_at"]), free_at=Timestamp.of(holder["free_at"])
        )
    await stop_locked(transaction, [holder["id"]], _REPLACED)
    await transaction.fetch("workers.retire_name", holder["id"])
    owner: str | None = holder["owner"]
    return owner


async def stop_locked(
    transaction: Transaction, ids: Collection[int], reason: str, *, died: bool = False
) -> dict[WorkerId, int]:
    """Stop workers within a transaction; see `stop`."""
    await transaction.fetch("workers.stop", list(ids), reason)
    statement = "workers.release_held"
    # Who may only send has no right to what a death asks for, and holds nothing.
    if died and await transaction.fetch_value("workers.hold_anything", list(ids)):
        statement = "workers.release_held_by_dead"
    released = {row["id"]: row["released"] for row in await transaction.fetch(statement, list(ids))}
    return {WorkerId(worker_id): released.get(worker_id, 0) for worker_id in ids}


async def stop(db: Database, worker_ids: Collection[int], *, reason: str, died: bool = False) -> dict[WorkerId, int]:
    """Stop workers whatever their state, and free all that they hold in the same transaction.

    For processes that are known to be dead or have nothing left to do; doing it twice does no harm.

    Args:
        db: where.
        worker_ids: whom.
        reason: why, for the rows' history.
        died: their processes died by themselves: messages that too many died under become dead letters.

    Returns:
        How many messages each of them held.
    """
    if not worker_ids:
        return {}
    async with db.transaction() as transaction:
        return await stop_locked(transaction, worker_ids, reason, died=died)


async def get(db: Database, worker_id: int) -> WorkerInfo:
    """Read a worker's row, with how many messages it holds.

    Raises:
        WorkerNotFoundError: there is none of this id.
    """
    row = await db.fetch_row("workers.get", worker_id)
    if row is None:
        raise _not_found(worker_id)
    return rows.worker(row)


async def status(db: Database, worker_id: int) -> WorkerStatus:
    """Read a worker's state.

    Raises:
        WorkerNotFoundError: there is none of this id.
    """
    value = await db.fetch_value("workers.status", worker_id)
    if value is None:
        raise _not_found(worker_id)
    return WorkerStatus(value)


async def heartbeat(db: Database, worker_id: int) -> WorkerStatus:
    """Say that the worker is alive, and learn its state.

    Raises:
        WorkerReplacedError: it is stopped or its row is gone; a heartbeat does not revive it.
    """
    value = await db.fetch_value("workers.heartbeat", worker_id)
    if value is None:
        message = f"Worker {worker_id} is stopped or was replaced; register anew to go on working."
        raise errors.WorkerReplacedError(message)
    return WorkerStatus(value)


async def is_healthy(db: Database, worker_id: int, max_age: timedelta) -> bool:
    """Tell whether the last heartbeat is at most `max_age` old, by the server's clock.

    Raises:
        WorkerNotFoundError: there is none of this id.
        ValidationError: the age is no duration, or negative.
    """
    seconds = arguments.seconds("max_age", max_age)
    healthy = await db.fetch_value("workers.is_healthy", worker_id, seconds)
    if healthy is None:
        raise _not_found(worker_id)
    return bool(healthy)


async def leased(db: Database, worker_id: int) -> int:
    """Count the messages that a worker holds."""
    return int(await db.fetch_value("workers.held", worker_id))


async def suspend(db: Database, worker_id: int) -> None:
    """Pause a worker that holds nothing; it gets no message until it is resumed.

    Raises:
        WorkerHasPendingMessagesError: it holds messages; drain it instead.
        InvalidStateTransitionError: it is suspended or stopped already.
        WorkerNotFoundError: there is none of this id.
    """
    await _move(
        db,
        worker_id,
        sources=(WorkerStatus.READY, WorkerStatus.POLLING, WorkerStatus.INTERRUPTED),
        target=WorkerStatus.SUSPENDED,
        rule="a worker must be ready, polling or interrupted to be suspended",
        empty=True,
    )


async def interrupt(db: Database, worker_id: int) -> None:
    """Begin to drain a worker: no new messages, what it holds is finished.

    Raises:
        InvalidStateTransitionError: it is not ready or polling.
        WorkerNotFoundError: there is none of this id.
    """
    await _move(
        db,
        worker_id,
        sources=(WorkerStatus.READY, WorkerStatus.POLLING),
        target=WorkerStatus.INTERRUPTED,
        rule="a worker must be ready or polling to be drained",
    )


async def resume(db: Database, worker_id: int) -> None:
    """Let a suspended worker work again.

    Raises:
        InvalidStateTransitionError: it is not suspended.
        WorkerNotFoundError: there is none of this id.
    """
    await _move(
        db,
        worker_id,
        sources=(WorkerStatus.SUSPENDED,),
        target=WorkerStatus.READY,
        rule="a worker must be suspended to be resumed",
    )


async def shutdown(db: Database, worker_id: int, *, reason: str = "shut down") -> None:
    """Stop a suspended worker for good.

    Raises:
        InvalidStateTransitionError: it is not suspended.
        WorkerNotFoundError: there is none of this id.
    """
    async with db.transaction() as transaction:
        await _check(
            transaction,
            worker_id,
            sources=(WorkerStatus.SUSPENDED,),
            target=WorkerStatus.STOPPED,
            rule="a worker must be suspended to be shut down",
        )
        await stop_locked(transaction, [worker_id], reason)


async def _move(
    db: Database,
    worker_id: int,
    *,
    sources: tuple[WorkerStatus, ...],
    target: WorkerStatus,
    rule: str,
    empty: bool = False,
) -> None:
    async with db.transaction() as transaction:
        current = await _check(transaction, worker_id, sources=sources, target=target, rule=rule)
        if empty:
            held = await transaction.fetch_value("workers.held", worker_id)
            if held:
                raise errors.WorkerHasPendingMessagesError(current, target, held)
        await transaction.fetch("workers.set_status", worker_id, target.value)


async def _check(
    transaction: Transaction, worker_id: int, *, sources: tuple[WorkerStatus, ...], target: WorkerStatus, rule: str
) -> WorkerStatus:
    """Lock the row, so that no dequeue runs beside the transition, and see whether it may happen."""
    row = await transaction.fetch_row("workers.lock", worker_id)
    if row is None:
        raise _not_found(worker_id)
    current = WorkerStatus(row["status"])
    if current not in sources:
        raise errors.InvalidStateTransitionError(current, target, rule)
    if row["terminating"] and target is WorkerStatus.READY:
        raise errors.InvalidStateTransitionError(current, target, "its pod is ending, and nobody resumes it any more")
    return current


def _not_found(worker_id: int) -> errors.WorkerNotFoundError:
    return errors.WorkerNotFoundError(f"There is no worker {worker_id}; it was never registered, or was purged.")
