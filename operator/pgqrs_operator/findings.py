"""Writes what one round found to its resources: who may disappear, who goes with its pod, what is said of others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgqrs_operator import declarations
from pgqrs_operator.details import queue_details, worker_details
from pgqrs_operator.facts import DeclareQueue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from pgqrs.fleet import Fleet
    from pgqrs_operator.actions import Outcome
    from pgqrs_operator.counting import Counts
    from pgqrs_operator.facts import Action, Key, Plan
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.reports import Reporter
    from pgqrs_operator.store import Queue, Store, Worker

#: What is said of a row that was written, by cause.
_CAUSES = {
    "Created": "Queue {name!r} was created in the database.",
    "Recreated": "Queue {name!r} was gone from the database and was created again.",
    "Adopted": "Queue {name!r} was there already and belongs to this resource now.",
    "Updated": "Queue {name!r} was changed as declared.",
    "DriftRepaired": "Queue {name!r} was changed by somebody else and was set right.",
}


class Findings:
    """Tells what was found in one database."""

    def __init__(self, reporter: Reporter, store: Store, counts: Counts) -> None:
        self._reporter = reporter
        self._store = store
        self._counts = counts

    async def announce(self, actions: Iterable[Action], outcome: Outcome, queues: Mapping[Key, Queue]) -> None:
        """Make an Event about each row of a queue that was written."""
        for action in actions:
            if isinstance(action, DeclareQueue) and action.key in queues and action.key in outcome.declared:
                text = _CAUSES[action.cause].format(name=action.declaration.name)
                warning = action.cause in {"Recreated", "DriftRepaired"}
                await self._reporter.event(queues[action.key], action.cause, text, warning=warning)

    async def report(
        self,
        queues: Iterable[Queue],
        workers: Iterable[Worker],
        pods: Iterable[Pod],
        *,
        found: Fleet,
        planned: Plan,
        counted: bool,
    ) -> None:
        """Write statuses and finalizers; `counted` says whether all messages were counted just now."""
        by_uid = {pod.uid: pod for pod in pods}
        writes: list[Awaitable[None]] = [self._queue(queue, found, planned) for queue in queues]
        writes += [
            self._worker(worker, by_uid.get(worker.pod_uid or ""), planned, counted=counted) for worker in workers
        ]
        await self._reporter.together(writes)

    async def _queue(self, queue: Queue, found: Fleet, planned: Plan) -> None:
        if queue.key in planned.done_queues:
            await self._reporter.let_go(queue)
        elif queue.key in planned.queues:
            verdict = planned.queues[queue.key]
            row, counts = found.queues.get(queue.queue_name), self._counts.of(queue.queue_name)
            await self._reporter.tell(queue, verdict, queue_details(row, counts, verdict))

    async def _worker(self, worker: Worker, pod: Pod | None, planned: Plan, *, counted: bool) -> None:
        done = worker.key in planned.done_workers
        if worker.deleting is not None and not worker.frozen and pod is not None and declarations.lives(pod):
            await self._let_mirror_go(worker, pod)
        elif done and worker.deleting:
            await self._reporter.let_go(worker)
        elif done and worker.pod_uid and self._ended_for_good(worker.pod_uid):
            await self._reporter.discard(worker)
        elif worker.key in planned.workers:
            verdict, report = planned.workers[worker.key], planned.reports.get(worker.key)
            details = worker_details(worker, report, verdict, counted=counted, now=datetime.now(UTC))
            await self._reporter.tell(worker, verdict, details)

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
