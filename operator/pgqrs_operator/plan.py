"""Decides what has to be done so that what is declared comes true. Pure: the same facts always give the same plan.

There is one path for what is new, changed, found again after a restart or deleted: whatever differs becomes an action.
Carrying the actions out and planning again ends in a plan without actions. It must never do I/O, read a clock or
remember anything.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from pgqrs.fleet import QueueDeclaration
from pgqrs.models import WORKING, WorkerStatus
from pgqrs_operator import verdicts
from pgqrs_operator.facts import (
    DeclareQueue,
    DeleteQueue,
    DisownQueue,
    InterruptWorker,
    Plan,
    ResumeWorker,
    StopWorker,
    SuspendWorker,
    WorkerReport,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgqrs.fleet import FleetQueue, FleetWorker
    from pgqrs_operator.facts import Action, Desired, DesiredQueue, DesiredWorker, Key, Observed
    from pgqrs_operator.verdicts import Verdict

#: How many silent workers one plan stops at most; the next plan takes the next ones.
_SILENT_BATCH = 500

FROZEN = verdicts.stalled(
    "PausedReconciliation",
    "The annotation pgqrs.io/paused-reconciliation is set: nothing is changed until it is removed, "
    "a deletion waits too.",
)
_PAUSED = (WorkerStatus.SUSPENDED, WorkerStatus.INTERRUPTED)


def plan(desired: Desired, observed: Observed) -> Plan:
    """Compare what is declared about a database with what is there."""
    return _Planner(desired, observed).run()


class _Planner:
    """Collects the parts of one plan."""

    def __init__(self, desired: Desired, observed: Observed) -> None:
        self.desired = desired
        self.observed = observed
        self.actions: list[Action] = []
        self.queues: dict[Key, Verdict] = {}
        self.workers: dict[Key, Verdict] = {}
        self.reports: dict[Key, WorkerReport] = {}
        self.done_queues: set[Key] = set()
        self.done_workers: set[Key] = set()
        #: Names of queues whose silent workers are nobody's but ours to stop.
        self.reaped: set[str] = set()
        self.stopped: set[int] = set()

    def run(self) -> Plan:
        def by_name(queue: DesiredQueue) -> str:
            return queue.name

        for _, group in groupby(sorted(self.desired.queues, key=lambda q: (q.name, q.age)), key=by_name):
            self._queues_of_one_name(list(group))
        self._all_workers()
        self._silent_workers()
        return Plan(
            actions=tuple(self.actions),
            queues=self.queues,
            workers=self.workers,
            reports=self.reports,
            done_queues=frozenset(self.done_queues),
            done_workers=frozenset(self.done_workers),
        )

    # -- queues

    def _queues_of_one_name(self, queues: Sequence[DesiredQueue]) -> None:
        first, *others = queues
        for other in others:
            if other.deleting and not other.frozen:
                # What it may have owned before, the first one has or takes.
                self.done_queues.add(other.key)
            self.queues[other.key] = verdicts.stalled(
                "Conflict",
                f"Queue {other.name!r} belongs to PgqrsQueue {first.key}, which is older; "
                "give this one another queueName.",
            )
        row = self.observed.fleet.queues.get(first.name)
        if first.frozen:
            self.queues[first.key] = FROZEN
        elif first.deleting:
            self._deleted_queue(first, row)
        else:
            self._declared_queue(first, row)

    def _declared_queue(self, queue: DesiredQueue, row: FleetQueue | None) -> None:
        owner = row.info.owner if row else None
        if owner not in {None, queue.owner} and owner in self.desired.others:
            self.queues[queue.key] = verdicts.stalled(
                "Conflict",
                f"Queue {queue.name!r} belongs to {owner} in this database; give this one another queueName, or delete "
                "that one. If that was this very resource before the cluster got its name, set `owner` of the queue's "
                "row to NULL.",
            )
            return
        if queue.policy is None:
            self.queues[queue.key] = verdicts.stalled("InvalidSpec", queue.problem)
            return
        self.reaped.add(queue.name)
        if row and owner == queue.owner and row.info.policy == queue.policy:
            text = f"Queue {queue.name!r} is as declared"
            paused = ": paused, nobody is handed a message." if queue.policy.paused else "."
            self.queues[queue.key] = verdicts.ready("InSync", text + paused)
            return
        if row is None:
            cause = "Recreated" if queue.settled else "Created"
        elif owner != queue.owner:
            cause = "Adopted"
        else:
            cause = "DriftRepaired" if queue.settled else "Updated"
        declaration = QueueDeclaration(name=queue.name, policy=queue.policy, owner=queue.owner, previous_owner=owner)
        self.actions.append(DeclareQueue(queue.key, declaration, cause))
        self.queues[queue.key] = verdicts.waiting("Applying", f"Queue {queue.name!r} is being made as declared.")

    def _deleted_queue(self, queue: DesiredQueue, row: FleetQueue | None) -> None:
        if row is None or row.info.owner != queue.owner:
            self.done_queues.add(queue.key)
            self.queues[queue.key] = verdicts.waiting(
                "Deleting", "Nothing in the database belongs to this resource any more."
            )
        elif not queue.delete_data:
            self.actions.append(DisownQueue(queue.name, queue.owner))
            self.queues[queue.key] = verdicts.waiting("Deleting", f"Queue {queue.name!r} is being left to itself.")
        elif row.live is None or row.live:
            count = "some" if row.live is None else f"{row.live}" if row.live < _MANY else f"{_MANY} or more"
            self.queues[queue.key] = verdicts.waiting(
                "WaitingForMessages",
                f"Queue {queue.name!r} has {count} live message(s). It is removed when none is left; "
                "set deletionPolicy to Retain to keep it and delete only this resource.",
            )
        else:
            self.actions.append(DeleteQueue(queue.key, queue.name))
            self.queues[queue.key] = verdicts.waiting("Deleting", f"Queue {queue.name!r} is being removed.")

    # -- workers

    def _all_workers(self) -> None:
        by_name: dict[str, FleetWorker] = {}
        by_pod: dict[str, list[FleetWorker]] = {}
        for row in self.observed.fleet.workers:
            by_name[row.info.name] = row
            if row.info.pod_uid:
                by_pod.setdefault(row.info.pod_uid, []).append(row)
        taken: dict[str, Key] = {}
        for worker in sorted(self.desired.workers, key=lambda w: w.age):
            if worker.frozen:
                self.workers[worker.key] = FROZEN
                continue
            if worker.pod_uid is not None:
                self._one_worker(worker, by_pod.get(worker.pod_uid, []))
            elif worker.row_name is None:
                self._without_rows(worker, verdicts.stalled("InvalidSpec", worker.problem))
            elif worker.row_name in taken:
                text = f"Worker {worker.row_name!r} belongs to PgqrsWorker {taken[worker.row_name]}, which is older."
                self._without_rows(worker, verdicts.stalled("Conflict", text))
            else:
                taken[worker.row_name] = worker.key
                named = by_name.get(worker.row_name)
                self._one_worker(worker, [named] if named else [])

    def _without_rows(self, worker: DesiredWorker, verdict: Verdict) -> None:
        if worker.deleting:
            self.done_workers.add(worker.key)
        self.workers[worker.key] = verdict

    def _one_worker(self, worker: DesiredWorker, rows: list[FleetWorker]) -> None:
        self.reports[worker.key] = _report(rows)
        end = self.observed.ended.get(worker.pod_uid or "")
        if end is not None:
            self._stop(rows, end)
            text = f"Its pod has ended: {end}."
            if rows:
                self.workers[worker.key] = verdicts.waiting("Stopping", text)
            else:
                self.done_workers.add(worker.key)
                self.workers[worker.key] = verdicts.ready("Stopped", text)
                self.reports[worker.key] = WorkerReport(state="Stopped")
        elif worker.problem:
            self._without_rows(worker, verdicts.stalled("InvalidSpec", worker.problem))
        elif worker.pod_ending:
            held = sum(row.info.leased for row in rows)
            self.workers[worker.key] = verdicts.waiting(
                "Terminating", f"Its pod is being deleted; {held} message(s) left."
            )
        elif worker.deleting or worker.state == "Stopped":
            self._drained_and_stopped(worker, rows)
        elif not rows:
            whose = "The pod's sidecar" if worker.pod_uid else f"Process {worker.row_name}"
            self.workers[worker.key] = verdicts.waiting("WaitingForWorker", f"{whose} has not registered a worker yet.")
        elif worker.state == "Suspended":
            self._suspended(worker, rows)
        else:
            self._working(worker, rows)

    def _drained_and_stopped(self, worker: DesiredWorker, rows: list[FleetWorker]) -> None:
        why = f"PgqrsWorker {worker.key} was deleted" if worker.deleting else f"PgqrsWorker {worker.key} says Stopped"
        left = 0
        for row in rows:
            if worker.drain_over:
                self._stop([row], f"{why}; its time to drain is over")
            elif row.info.status in WORKING and not row.info.terminating:
                self.actions.append(InterruptWorker(row.info.id, worker.owner))
            elif row.info.leased == 0 and row.info.status in _PAUSED:
                self._stop([row], why, only_if="idle")
            else:
                left += row.info.leased
        if rows:
            text = f"{left} message(s) are being finished." if left else "It is being stopped."
            self.workers[worker.key] = verdicts.waiting("Draining", text)
        elif worker.deleting:
            self.done_workers.add(worker.key)
            self.workers[worker.key] = verdicts.waiting("Deleting", "No row is left alive.")
        else:
            self.workers[worker.key] = verdicts.ready("Stopped", "It is stopped, as declared.")
            self.reports[worker.key] = WorkerReport(state="Stopped")

    def _suspended(self, worker: DesiredWorker, rows: list[FleetWorker]) -> None:
        left = 0
        for row in rows:
            if row.info.terminating:
                continue
            if row.info.status in WORKING:
                self.actions.append(InterruptWorker(row.info.id, worker.owner))
            elif row.info.status == WorkerStatus.INTERRUPTED and row.info.leased == 0:
                self.actions.append(SuspendWorker(row.info.id))
            else:
                left += row.info.leased
        if all(row.info.status == WorkerStatus.SUSPENDED or row.info.terminating for row in rows):
            self.workers[worker.key] = verdicts.ready("Suspended", "It is suspended, as declared.")
        else:
            self.workers[worker.key] = verdicts.waiting("Draining", f"{left} message(s) are being finished.")

    def _working(self, worker: DesiredWorker, rows: list[FleetWorker]) -> None:
        resumed = False
        for row in rows:
            ours = row.owner == worker.owner
            asked = worker.state == "Ready" and row.info.status == WorkerStatus.SUSPENDED
            if (ours or asked) and not row.info.terminating:
                self.actions.append(ResumeWorker(row.info.id))
                resumed = resumed or row.info.status in _PAUSED
        if resumed:
            self.workers[worker.key] = verdicts.waiting("Resuming", "It is being resumed.")
        elif worker.state is None and all(row.info.status in _PAUSED for row in rows):
            text = "It paused or drains by itself; set spec.state to Ready to have it resumed."
            self.workers[worker.key] = verdicts.ready("PausedByItself", text)
        elif all(row.info.status in _PAUSED for row in rows):
            self.workers[worker.key] = verdicts.waiting("Draining", "Its process is draining it.")
        else:
            self.workers[worker.key] = verdicts.ready("Working", "It works.")

    def _silent_workers(self) -> None:
        if not self.observed.silence_counts:
            return
        silent = [
            row
            for row in self.observed.fleet.workers
            if row.silent and row.queue_name in self.reaped and row.info.id not in self.stopped
        ]
        self._stop(silent[:_SILENT_BATCH], "heartbeat timeout", only_if="silent")

    def _stop(self, rows: Iterable[FleetWorker], reason: str, only_if: str = "") -> None:
        for row in rows:
            self.stopped.add(row.info.id)
            self.actions.append(StopWorker(row.info.id, reason, only_if))


#: As far as live messages are counted.
_MANY = 10_000


def _report(rows: Sequence[FleetWorker]) -> WorkerReport:
    """Sum up the rows of one resource; of several states the busiest counts."""
    statuses = {row.info.status for row in rows}
    if not rows:
        state = "Waiting"
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
