"""The part of a plan that is about workers: each row is looked after by one resource. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqrs.models import WORKING, WorkerStatus
from pgqrs_operator import verdicts
from pgqrs_operator.drafting import FROZEN
from pgqrs_operator.facts import Concerned, InterruptWorker, ResumeWorker, SuspendWorker, WorkerReport
from pgqrs_operator.pods import is_own_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgqrs.fleet import FleetWorker
    from pgqrs_operator.drafting import Draft
    from pgqrs_operator.facts import Desired, DesiredWorker, Key, Observed
    from pgqrs_operator.verdicts import Verdict

_PAUSED = (WorkerStatus.SUSPENDED, WorkerStatus.INTERRUPTED)

#: A pod: its namespace, in which whoever speaks for it must be, and its uid.
_PodKey = tuple[str | None, str]


def plan_workers(desired: Desired, observed: Observed, draft: Draft) -> None:
    """Write what is to be done about workers, and what can be said of them, into a draft."""
    planner = _WorkerPlanner(desired.workers, observed, draft)
    for worker in sorted(desired.workers, key=lambda w: w.age):
        with draft.guarded([Concerned("worker", worker.key)]):
            planner.worker(worker)


class _WorkerPlanner:
    def __init__(self, workers: Iterable[DesiredWorker], observed: Observed, draft: Draft) -> None:
        self._observed = observed
        self._draft = draft
        self._by_name: dict[str, FleetWorker] = {}
        self._by_pod: dict[_PodKey, list[FleetWorker]] = {}
        for row in observed.fleet.workers:
            self._by_name[row.info.name] = row
            if row.info.pod_uid:
                self._by_pod.setdefault((row.info.pod_namespace, row.info.pod_uid), []).append(row)
        #: Who looks after the rows of a pod, and after the row of a name.
        self._pods: dict[_PodKey, Key] = {}
        self._names: dict[str, Key] = {}
        # The one that was made for the pod, else the oldest; never one that says nothing readable.
        for worker in sorted(workers, key=lambda w: (bool(w.problem), not w.mirror, w.age)):
            if worker.pod_uid is not None:
                self._pods.setdefault((worker.key.namespace, worker.pod_uid), worker.key)
            elif worker.row_name is not None:
                self._names.setdefault(worker.row_name, worker.key)

    def worker(self, worker: DesiredWorker) -> None:
        """Plan for one resource, and say what is the case with it where there is one."""
        rows, refusal = self._rows_of(worker)
        end = self._observed.ended.get(worker.pod_uid or "")
        verdict = self._verdict(worker, rows, refusal, end)
        if worker.stand_in:
            # Another resource may have the name of its pod.
            return
        if not worker.frozen and _is_done(worker, verdict, ended=end is not None and not rows):
            self._draft.done_workers.add(worker.key)
        self._draft.workers[worker.key] = verdict
        if refusal is None:
            self._draft.reports[worker.key] = _report(rows, over=verdict.reason == "Stopped")

    def _verdict(
        self, worker: DesiredWorker, rows: list[FleetWorker], refusal: Verdict | None, end: str | None
    ) -> Verdict:
        if end is not None:
            # Whatever a resource says: the messages of the dead are everybody's.
            self._draft.stop(rows, end, died=is_own_end(end))
        if worker.frozen:
            return FROZEN
        if refusal is not None:
            return refusal
        if end is not None:
            text = f"Its pod has ended: {end}."
            return verdicts.waiting("Stopping", text) if rows else verdicts.ready("Stopped", text)
        if worker.problem:
            return verdicts.stalled("InvalidSpec", worker.problem)
        return self._as_declared(worker, rows)

    def _as_declared(self, worker: DesiredWorker, rows: list[FleetWorker]) -> Verdict:
        if worker.pod_ending:
            held = sum(row.info.leased for row in rows)
            return verdicts.waiting("Terminating", f"Its pod is being deleted; {held} message(s) left.")
        if worker.deleting or worker.state == "Stopped":
            return self._stopped(worker, rows)
        if not rows:
            whose = "The pod's sidecar" if worker.pod_uid else f"Process {worker.row_name}"
            return verdicts.waiting("WaitingForWorker", f"{whose} has not registered a worker yet.")
        return self._suspended(worker, rows) if worker.state == "Suspended" else self._working(worker, rows)

    def _rows_of(self, worker: DesiredWorker) -> tuple[list[FleetWorker], Verdict | None]:
        """Give the rows that this resource looks after, or why it looks after none."""
        if worker.pod_uid is not None:
            pod = worker.key.namespace, worker.pod_uid
            first = self._pods[pod]
            if first != worker.key:
                return [], _conflict(f"The workers of its pod belong to PgqrsWorker {first}; delete this one.")
            return self._by_pod.get(pod, []), None
        if worker.row_name is None:
            return [], verdicts.stalled("InvalidSpec", worker.problem)
        row = self._by_name.get(worker.row_name)
        refusal = self._not_its_own(worker, worker.row_name, row)
        return ([] if row is None or refusal else [row]), refusal

    def _not_its_own(self, worker: DesiredWorker, name: str, row: FleetWorker | None) -> Verdict | None:
        """Say why the worker of a name is not this resource's to look after."""
        first = self._names[name]
        if first != worker.key:
            return _conflict(f"Worker {name!r} belongs to PgqrsWorker {first}, which is older.")
        if row is None:
            return None
        owner = self._pods.get((row.info.pod_namespace, row.info.pod_uid or ""))
        if owner is not None:
            return _conflict(f"Worker {name!r} is of a pod and belongs to PgqrsWorker {owner}; delete this one.")
        if row.queue_name != worker.queue_name:
            serves = "no queue" if row.queue_name is None else f"queue {row.queue_name!r}"
            text = f"Worker {name!r} serves {serves}, not {worker.queue_name!r}, which spec.queueRef names."
            return verdicts.stalled("WrongQueue", f"{text} Delete this and make one that names its queue.")
        return None

    def _stopped(self, worker: DesiredWorker, rows: list[FleetWorker]) -> Verdict:
        why = f"PgqrsWorker {worker.key} was deleted" if worker.deleting else f"PgqrsWorker {worker.key} says Stopped"
        left = 0
        for row in rows:
            if worker.drain_over:
                self._draft.stop([row], f"{why}; its time to drain is over")
            elif row.info.status in WORKING and not row.info.terminating:
                self._draft.actions.append(InterruptWorker(row.info.id, worker.owner))
            elif row.info.leased == 0 and row.info.status in _PAUSED:
                self._draft.stop([row], why, only_if="idle")
            else:
                left += row.info.leased
        if rows:
            text = f"{left} message(s) are being finished." if left else "It is being stopped."
            return verdicts.waiting("Draining", text)
        if worker.deleting:
            return verdicts.waiting("Deleting", "No row is left alive.")
        return verdicts.ready("Stopped", "It is stopped, as declared.")

    def _suspended(self, worker: DesiredWorker, rows: list[FleetWorker]) -> Verdict:
        left = 0
        for row in rows:
            if row.info.terminating:
                continue
            if row.info.status in WORKING:
                self._draft.actions.append(InterruptWorker(row.info.id, worker.owner))
            elif row.info.status == WorkerStatus.INTERRUPTED and row.info.leased == 0:
                self._draft.actions.append(SuspendWorker(row.info.id))
            else:
                left += row.info.leased
        if all(row.info.status == WorkerStatus.SUSPENDED or row.info.terminating for row in rows):
            return verdicts.ready("Suspended", "It is suspended, as declared.")
        return verdicts.waiting("Draining", f"{left} message(s) are being finished.")

    def _working(self, worker: DesiredWorker, rows: list[FleetWorker]) -> Verdict:
        resumed = False
        for row in rows:
            paused = row.info.status in _PAUSED
            # A pod's rows are of one resource alone, so whoever held one back before is none any more.
            ours = row.owner == worker.owner if worker.pod_uid is None else row.owner is not None
            if (ours or (worker.state == "Ready" and paused)) and not row.info.terminating:
                self._draft.actions.append(ResumeWorker(row.info.id))
                resumed = resumed or paused
        if resumed:
            return verdicts.waiting("Resuming", "It is being resumed.")
        if any(row.info.status in WORKING for row in rows):
            return verdicts.ready("Working", "It works.")
        if worker.state is None:
            text = "It paused or drains by itself; set spec.state to Ready to have it resumed."
            return verdicts.ready("PausedByItself", text)
        return verdicts.waiting("Draining", "Its process is draining it.")


def _conflict(text: str) -> Verdict:
    return verdicts.stalled("Conflict", text)


def _is_done(worker: DesiredWorker, verdict: Verdict, *, ended: bool) -> bool:
    """Tell whether nothing is left to do for a resource that goes, or whose pod has ended with all of its workers."""
    return ended or verdict.reason == "Deleting" or (worker.deleting and verdict.kind == "stalled")


def _report(rows: Sequence[FleetWorker], *, over: bool) -> WorkerReport:
    """Sum up the rows of one resource; of several states the busiest counts."""
    statuses = {row.info.status for row in rows}
    if not rows:
        state = "Stopped" if over else "Waiting"
    elif statuses & set(WORKING):
        state = "Ready"
    elif WorkerStatus.INTERRUPTED in statuses:
        state = "Draining"
    else:
        state = "Suspended"
    return WorkerReport(
        worker_ids=tuple(row.info.id for row in rows),
        state=state,
        stale=any(row.stale for row in rows) if rows else None,
        leased=sum(row.info.leased for row in rows),
    )
