"""Carries out what was planned, in bulk. Each statement names what it expects to find, so an old plan does no harm.

What PostgreSQL refuses is found by halves, so that one row that it does not like holds up no other. A row that somebody
else has locked is left to the next plan.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pgqrs import errors, fleet, queues
from pgqrs_operator import verdicts
from pgqrs_operator.deaths import NOBODY_DIED
from pgqrs_operator.facts import (
    DeclareQueue,
    DeleteQueue,
    DisownQueue,
    InterruptWorker,
    ResumeWorker,
    StopWorker,
    SuspendWorker,
)
from pgqrs_operator.halves import by_halves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from pgqrs.database import Database
    from pgqrs.models import QueueId, WorkerId
    from pgqrs_operator.deaths import Death
    from pgqrs_operator.facts import Action, Key, Plan
    from pgqrs_operator.metrics import Metrics
    from pgqrs_operator.verdicts import Verdict

_log = logging.getLogger(__name__)

#: Rows that one transaction writes, so that none of them is locked for long and none takes longer than a statement may.
_BATCH = 500
#: Workers that one transaction stops; each may hold many messages.
_STOP_BATCH = 100
#: What all removals of queues may take at a time, in seconds; dead workers wait meanwhile. Long histories go in pieces.
_DELETIONS_SECONDS = 2.0

_Item = TypeVar("_Item")


@dataclass(slots=True)
class Outcome:
    """What became of a plan's actions."""

    #: The ids of rows of queues that were written, and the workers that were held back or resumed.
    declared: dict[Key, QueueId] = field(default_factory=dict)
    changed: set[WorkerId] = field(default_factory=set)
    #: What could not be done, by the queue that asked for it, and by the worker's id.
    queues: dict[Key, Verdict] = field(default_factory=dict)
    workers: dict[int, Verdict] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing was refused."""
        return not (self.queues or self.workers)

    def judged(self, planned: Plan) -> Plan:
        """Say what was refused of those alone whom it concerns; log what is a defect of ours."""
        for (kind, key), error in planned.defects.items():
            _log.error("defect", extra={"kind": kind, "resource": str(key)}, exc_info=error)
        refused = {
            key: self.workers[worker_id]
            for key, report in planned.reports.items()
            for worker_id in report.worker_ids
            if worker_id in self.workers
        }
        return replace(planned, queues={**planned.queues, **self.queues}, workers={**planned.workers, **refused})


async def carry_out(
    db: Database, actions: Iterable[Action], metrics: Metrics, deaths: Mapping[WorkerId, Death] | None = None
) -> Outcome:
    """Do all of it that can be done.

    Args:
        db: where.
        actions: what was planned.
        metrics: where it is counted.
        deaths: what is known of the ends of those who are stopped; nobody is known to have died if not given.

    Raises:
        DatabaseUnavailableError: the database does not answer; what was not done is planned again.
        SchemaError: the tables are not those that are needed.
    """
    kinds: dict[type[Action], list[Any]] = defaultdict(list)
    for action in actions:
        kinds[type(action)].append(action)
    todo = _Todo(db, metrics, deaths or {})
    # Who is held back or let go is marked so before it is stopped: the process that comes next starts as it was left.
    await todo.each(todo.interrupt, kinds[InterruptWorker], batch=_BATCH)
    await todo.each(todo.suspend, kinds[SuspendWorker], batch=_BATCH)
    await todo.each(todo.resume, kinds[ResumeWorker], batch=_BATCH)
    groups: dict[tuple[str, str, bool], list[StopWorker]] = defaultdict(list)
    for stop in kinds[StopWorker]:
        groups[stop.reason, stop.only_if, stop.died].append(stop)
    for members in groups.values():
        await todo.each(todo.stop, members, batch=_STOP_BATCH)
    # After what messages wait for.
    await todo.each(todo.declare, kinds[DeclareQueue], batch=_BATCH)
    await todo.each(todo.disown, kinds[DisownQueue], batch=_BATCH)
    await todo.delete_all(kinds[DeleteQueue])
    return todo.outcome


class _Todo:
    """The kinds of actions, each for many at once."""

    def __init__(self, db: Database, metrics: Metrics, deaths: Mapping[WorkerId, Death]) -> None:
        self._db = db
        self._metrics = metrics
        self._deaths = deaths
        self.outcome = Outcome()

    async def each(
        self, do: Callable[[Sequence[_Item]], Awaitable[None]], items: Sequence[_Item], *, batch: int
    ) -> None:
        """Do it for all of which PostgreSQL does not refuse it."""
        await by_halves(do, items, batch=batch, refused=self._refused)

    def _refused(self, items: Sequence[Any], text: str) -> None:
        verdict = verdicts.stalled("DatabaseRefused", text)
        _log.warning("actions refused", extra={"action": type(items[0]).__name__, "count": len(items), "error": text})
        for item in items:
            if isinstance(item, DeclareQueue | DisownQueue):
                self.outcome.queues[item.key] = verdict
            else:
                self.outcome.workers[item.worker_id] = verdict

    async def declare(self, actions: Sequence[DeclareQueue]) -> None:
        written = await fleet.declare(self._db, [action.declaration for action in actions])
        for action in actions:
            if action.declaration.name in written:
                self.outcome.declared[action.key] = written[action.declaration.name]
                self._metrics.queue_declared(action.cause)
                _log.info("queue declared", extra={"queue": str(action.key), "cause": action.cause})

    async def disown(self, actions: Sequence[DisownQueue]) -> None:
        await fleet.disown(self._db, {action.name: action.owner for action in actions})

    async def interrupt(self, actions: Sequence[InterruptWorker]) -> None:
        self.outcome.changed |= await fleet.interrupt(self._db, {action.worker_id: action.owner for action in actions})

    async def suspend(self, actions: Sequence[SuspendWorker]) -> None:
        await fleet.suspend(self._db, [action.worker_id for action in actions])

    async def resume(self, actions: Sequence[ResumeWorker]) -> None:
        self.outcome.changed |= await fleet.resume(self._db, [action.worker_id for action in actions])

    async def stop(self, actions: Sequence[StopWorker]) -> None:
        """Stop workers for one reason and on one condition."""
        reason, only_if = actions[0].reason, actions[0].only_if
        ids = [action.worker_id for action in actions]
        if only_if:
            stop = {"silent": fleet.stop_silent, "idle": fleet.stop_idle}[only_if]
            released = await stop(self._db, ids, reason=reason)
        else:
            released = await fleet.stop(self._db, ids, reason=reason, died=actions[0].died)
        for worker_id, messages in released.items():
            death = self._deaths.get(worker_id, NOBODY_DIED)
            self._metrics.worker_stopped(death.cause, messages, death.delay)
            _log.info("worker stopped", extra={"worker_id": worker_id, "reason": reason, "released": messages})

    async def delete_all(self, actions: Sequence[DeleteQueue]) -> None:
        """Remove queues as long as there is time; in any order, so that one that takes long is not always the first."""
        left = random.sample(actions, len(actions))
        try:
            async with asyncio.timeout(_DELETIONS_SECONDS):
                while left:
                    await self._delete(left[-1])
                    left.pop()
        except TimeoutError:
            for action in left:
                text = f"Queue {action.name!r} is being removed; its history is long, or others are removed first."
                self.outcome.queues[action.key] = verdicts.waiting("Deleting", text)

    async def _delete(self, action: DeleteQueue) -> None:
        try:
            await queues.delete(self._db, action.name, seen=action.seen)
        except errors.PgqrsError as error:
            # Messages that came meanwhile, a table that is busy, tables of somebody else that refer to it: that is this
            # queue's matter alone.
            _log.info("queue not removed", extra={"queue": action.name, "error": str(error)})
            self.outcome.queues[action.key] = verdicts.waiting("DeletionRefused", str(error))
