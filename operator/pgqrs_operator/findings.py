"""Writes what one round found to its resources: who may disappear, who goes with its pod, what is said of others."""

from __future__ import annotations

import itertools
import logging
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pgqrs_operator import declarations, verdicts
from pgqrs_operator.contests import Contests
from pgqrs_operator.details import queue_details, worker_details
from pgqrs_operator.facts import DeclareQueue, InterruptWorker, ResumeWorker
from pgqrs_operator.reports import MOST_EVENTS
from pgqrs_operator.store import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from pgqrs.fleet import Fleet, FleetWorker
    from pgqrs.models import QueueId
    from pgqrs_operator.actions import Outcome
    from pgqrs_operator.counting import Counts
    from pgqrs_operator.facts import Key, Plan
    from pgqrs_operator.metrics import Metrics
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.reports import Reporter
    from pgqrs_operator.state import State
    from pgqrs_operator.store import Store, Worker

_log = logging.getLogger(__name__)

_Write: TypeAlias = "Coroutine[Any, Any, object]"

#: What is said of a row that was written, by cause.
_CAUSES = {
    "Created": "Queue {name!r} was created in the database.",
    "Recreated": "Queue {name!r} was gone from the database and was created again.",
    "Adopted": "Queue {name!r} was there already and belongs to this resource now.",
    "Updated": "Queue {name!r} was changed as declared.",
    "DriftRepaired": "Queue {name!r} was changed by somebody else and was set right.",
}
_WARNINGS = {"Recreated", "DriftRepaired"}


def _kept(row_id: int) -> str:
    return f"It has its former id {row_id}, so the messages that are left of it are its own again."


def _lost(former_id: int, row_id: int) -> str:
    return (
        f"Its id is {row_id} now. It had the id {former_id} before, which is not free in this database; messages that "
        "name that one as queue_id are not found by it."
    )


class Told(NamedTuple):
    """How much of what was found was written."""

    #: The end was reached.
    all: bool
    #: So many writes were tried.
    writes: int


class Findings:
    """Tells what was found in one database."""

    def __init__(self, reporter: Reporter, store: Store, counts: Counts, metrics: Metrics) -> None:
        self._reporter = reporter
        self._store = store
        self._counts = counts
        self._metrics = metrics
        self._contests = Contests()

    async def announce(
        self,
        planned: Plan,
        outcome: Outcome,
        *,
        found: Fleet,
        queues: Mapping[Key, Queue],
        workers: Mapping[Key, Worker],
    ) -> None:
        """Make an Event about each row of a queue that was written, and about each worker that was set right.

        Args:
            planned: what was carried out.
            outcome: what became of it.
            found: the rows that it was planned by.
            queues: the resources of queues.
            workers: those of workers.
        """
        declared = [
            action
            for action in planned.actions
            if isinstance(action, DeclareQueue) and action.key in queues and action.key in outcome.declared
        ]
        # Of what goes on and on it was said that it does.
        told = [action for action in declared if not self._contests.holds(action.key)]
        self._contests.note((action.key, action.cause) for action in declared)
        events: list[_Write] = []
        for worker, row in drifted(planned, found, workers):
            if row.info.id in outcome.changed:
                self._metrics.drift_repaired("worker")
                text = f"Worker {row.info.name!r} was made {row.info.status} by somebody else and was set right."
                events.append(self._reporter.event(worker, "DriftRepaired", text, warning=True))
        # What somebody may have to look after comes first: of thousands that are new not each is worth the wait.
        told.sort(key=lambda action: action.cause not in _WARNINGS)
        shown = told[: max(MOST_EVENTS, sum(action.cause in _WARNINGS for action in told))]
        written = (self._written(queues[action.key], action, outcome.declared[action.key]) for action in shown)
        if not await self._reporter.in_time(itertools.chain(events, written)) or len(shown) < len(told):
            _log.info("some events of rows that were written are left out", extra={"written": len(told)})

    async def _written(self, queue: Queue, action: DeclareQueue, row_id: QueueId) -> None:
        text = _CAUSES[action.cause].format(name=action.declaration.name)
        former_id = action.declaration.former_id
        if former_id is not None:
            text = f"{text} {_kept(former_id) if former_id == row_id else _lost(former_id, row_id)}"
        await self._reporter.event(queue, action.cause, text, warning=action.cause in _WARNINGS)

    async def report(self, state: State, *, counted: bool, hurry: Callable[[], bool]) -> Told:
        """Write statuses and finalizers, as far as there is time.

        Args:
            state: what was found.
            counted: whether numbers are due.
            hurry: tells whether something came up that is to be done first.

        Returns:
            How much of it; what is left out, or failed, is found again by the next round.
        """
        by_uid = {pod.uid: pod for pod in state.assignment.pods}
        # In any order, so that those that cannot be written are not always the first.
        resources: list[Queue | Worker] = [*state.queues, *state.workers]
        random.shuffle(resources)
        writes = (
            self._queue(one, state.found, state.planned, counted=counted)
            if isinstance(one, Queue)
            else self._worker(one, by_uid.get(one.pod_uid or ""), state.planned, counted=counted)
            for one in resources
        )
        made = 0

        def needed() -> Iterator[_Write]:
            nonlocal made
            for write in writes:
                if write is not None:
                    made += 1
                    yield write

        return Told(all=await self._reporter.in_time(needed(), hurry=hurry), writes=made)

    def _queue(self, queue: Queue, found: Fleet, planned: Plan, *, counted: bool) -> _Write | None:
        if queue.key in planned.done_queues:
            return self._reporter.let_go(queue)
        if queue.key not in planned.queues:
            return None
        verdict = self._contests.judged(queue.key, planned.queues[queue.key])
        if not counted:
            verdict = verdicts.as_told(queue.status, verdict, queue.generation)
        row, counts = found.queues.get(queue.queue_name), self._counts.of(queue.queue_name)
        return self._reporter.telling(queue, verdict, queue_details(row, counts, verdict, told=queue.status))

    def _worker(self, worker: Worker, pod: Pod | None, planned: Plan, *, counted: bool) -> _Write | None:
        done = worker.key in planned.done_workers
        if worker.deleting is not None and not worker.frozen and pod is not None and declarations.lives(pod):
            return self._let_mirror_go(worker, pod)
        if done and worker.deleting:
            return self._reporter.let_go(worker)
        if done and worker.pod_uid and self._ended_for_good(worker.pod_uid):
            return self._reporter.discard(worker)
        if worker.key not in planned.workers:
            return None
        verdict, report = planned.workers[worker.key], planned.reports.get(worker.key)
        if not counted:
            verdict = verdicts.as_told(worker.status, verdict, worker.generation)
        details = worker_details(worker, report, verdict, counted=counted, now=datetime.now(UTC))
        return self._reporter.telling(worker, verdict, details)

    async def _let_mirror_go(self, worker: Worker, pod: Pod) -> None:
        """Let the resource of a pod that goes on disappear, and with it what it said."""
        state = worker.spec.state if worker.spec else None
        paused = state in {"Suspended", "Stopped"} and pod.key.namespace == worker.key.namespace
        if await self._reporter.let_go(worker) and paused:
            text = (
                f"PgqrsWorker {worker.key} said {state} and was deleted, so the workers of this pod are resumed. To "
                "pause them again, set spec.state of the PgqrsWorker that is made in its place."
            )
            await self._reporter.pod_event(pod, "Resumed", text, warning=True)

    def _ended_for_good(self, pod_uid: str) -> bool:
        pod = self._store.pods.get(pod_uid)
        return pod is None or pod.final


def drifted(planned: Plan, found: Fleet, workers: Mapping[Key, Worker]) -> Iterator[tuple[Worker, FleetWorker]]:
    """Give the workers whose state somebody else changed, and that are set right by this plan, with their resources."""
    rows = {row.info.id: row for row in found.workers}
    whose = {row_id: key for key, report in planned.reports.items() for row_id in report.worker_ids}
    for action in planned.actions:
        if not isinstance(action, InterruptWorker | ResumeWorker):
            continue
        row, key = rows[action.worker_id], whose.get(action.worker_id)
        worker = workers.get(key) if key else None
        if worker is None or not verdicts.settled(worker.status, worker.generation):
            continue
        # One that was held back works again; or one that nobody here holds back does not work.
        held_back = row.owner is not None
        if held_back is isinstance(action, InterruptWorker):
            yield worker, row
