"""Carries out what was planned, in bulk. Each statement names what it expects to find, so an old plan does no harm."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pgqrs import errors, fleet, lifecycle, queues
from pgqrs_operator.facts import (
    DeclareQueue,
    DeleteQueue,
    DisownQueue,
    InterruptWorker,
    ResumeWorker,
    StopWorker,
    SuspendWorker,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqrs.database import Database
    from pgqrs_operator.facts import Action, Key
    from pgqrs_operator.metrics import Metrics

_log = logging.getLogger(__name__)


async def carry_out(db: Database, actions: Iterable[Action], metrics: Metrics) -> dict[Key, str]:
    """Do all of it, and give what could not be done, by the resource that asked for it.

    Raises:
        DatabaseError: the database does not answer, or refused; what was not done is planned again.
    """
    problems: dict[Key, str] = {}
    kinds: dict[type[Action], list[Any]] = defaultdict(list)
    for action in actions:
        kinds[type(action)].append(action)
    await fleet.declare(db, [action.declaration for action in kinds[DeclareQueue]])
    for action in kinds[DeclareQueue]:
        metrics.queue_declared(action.cause)
        _log.info("queue declared", extra={"queue": str(action.key), "cause": action.cause})
    await fleet.disown(db, {action.name: action.owner for action in kinds[DisownQueue]})
    await fleet.interrupt(db, {action.worker_id: action.owner for action in kinds[InterruptWorker]})
    await fleet.suspend(db, [action.worker_id for action in kinds[SuspendWorker]])
    await fleet.resume(db, [action.worker_id for action in kinds[ResumeWorker]])
    await _stop(db, kinds[StopWorker], metrics)
    for action in kinds[DeleteQueue]:
        try:
            await queues.delete(db, action.name)
        except errors.PgqrsError as error:
            # Messages that came meanwhile, a table that is busy, tables of somebody else that refer to it: that is this
            # queue's matter alone.
            _log.info("queue not removed", extra={"queue": action.name, "error": str(error)})
            problems[action.key] = str(error)
    return problems


async def _stop(db: Database, actions: Iterable[StopWorker], metrics: Metrics) -> None:
    stop = {"": lifecycle.stop, "silent": fleet.stop_silent, "idle": fleet.stop_idle}
    groups: dict[tuple[str, str], list[StopWorker]] = defaultdict(list)
    for action in actions:
        groups[action.reason, action.only_if].append(action)
    for (reason, only_if), members in groups.items():
        released = await stop[only_if](db, [action.worker_id for action in members], reason=reason)
        for worker_id, messages in released.items():
            metrics.worker_stopped(only_if or "known", messages)
            _log.info("worker stopped", extra={"worker_id": worker_id, "reason": reason, "released": messages})
