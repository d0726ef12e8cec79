"""The rows of one database in memory, and what the operator's actions do to them.

They know no more than the actions need. That PostgreSQL does the same with real ones is shown by
`test_planner_on_postgres`; so what is so on these rows is so there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgqrs.fleet import Fleet, FleetQueue, FleetWorker
from pgqrs.models import (
    WORKING,
    QueueId,
    QueueInfo,
    QueuePolicy,
    QueueRetention,
    Timestamp,
    WorkerId,
    WorkerInfo,
    WorkerStatus,
)
from pgqrs_operator import facts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqrs_operator.facts import Action, Desired

#: The pods that there may be, by their uids. The second one's name is also that of somebody's own resource.
POD_NAMES = {"uid-1": "web-1", "uid-2": "web-2"}
_THEN = Timestamp.of(datetime(2026, 1, 1, tzinfo=UTC))
#: In which the actions of one plan are carried out.
_ORDER = (
    facts.InterruptWorker,
    facts.SuspendWorker,
    facts.ResumeWorker,
    facts.StopWorker,
    facts.DeclareQueue,
    facts.DisownQueue,
    facts.DeleteQueue,
)
_PAUSED = (WorkerStatus.SUSPENDED, WorkerStatus.INTERRUPTED)


@dataclass
class QueueRow:
    """A row of `pgqrs_queues`, and how many live messages nobody holds."""

    policy: QueuePolicy = field(default_factory=QueuePolicy)
    retention: QueueRetention = field(default_factory=QueueRetention)
    owner: str | None = None
    free: int = 0


@dataclass
class WorkerRow:
    """A row of `pgqrs_workers`, and how many messages it holds."""

    name: str
    queue: str
    #: The uid of its pod in the namespace `shop`.
    pod: str | None = None
    status: WorkerStatus = WorkerStatus.READY
    owner: str | None = None
    terminating: bool = False
    silent: bool = False
    held: int = 0


@dataclass
class Rows:
    """What is in the database."""

    queues: dict[str, QueueRow] = field(default_factory=dict)
    workers: dict[int, WorkerRow] = field(default_factory=dict)
    #: The ids of `queues`, and the last one that was drawn.
    ids: dict[str, int] = field(default_factory=dict)
    drawn: int = 0
    #: How many live messages name a queue that has no row any more, by its id.
    orphans: dict[int, int] = field(default_factory=dict)

    def live(self, name: str) -> int:
        """Count the live messages of a queue."""
        return self.queues[name].free + sum(row.held for row in self.workers.values() if row.queue == name)

    def alive(self) -> dict[int, WorkerRow]:
        """Give the workers that are not stopped."""
        return {number: row for number, row in self.workers.items() if row.status is not WorkerStatus.STOPPED}

    def make(self, name: str, row: QueueRow, former_id: int | None = None) -> None:
        """Make a queue's row, with the id that it had where that was drawn once and is free."""
        if former_id is None or not 0 < former_id <= self.drawn or former_id in self.ids.values():
            self.drawn += 1
            former_id = self.drawn
        self.ids[name] = former_id
        self.queues[name] = row
        row.free += self.orphans.pop(former_id, 0)

    def remove(self, name: str) -> None:
        """Remove a queue with its workers, of which none holds a message; what it has is left behind."""
        row, row_id = self.queues.pop(name), self.ids.pop(name)
        if row.free:
            self.orphans[row_id] = row.free
        self.workers = {number: row for number, row in self.workers.items() if row.queue != name}

    # -- what `pgqrs.fleet` does

    def observe(self, desired: Desired) -> Fleet:
        """Read what `fleet.observe` reads for what is declared."""
        names = {queue.name for queue in desired.queues}
        emptying = {queue.name for queue in desired.queues if queue.deleting and queue.delete_data}
        named = {worker.row_name for worker in desired.workers}
        owned = {worker.pod_uid for worker in desired.workers if worker.pod_uid}
        return Fleet(
            queues={
                name: FleetQueue(info=self._info(name, row), live=self.live(name) if name in emptying else None)
                for name, row in self.queues.items()
                if name in names
            },
            workers=tuple(
                FleetWorker(
                    info=_worker(number, row),
                    queue_name=row.queue,
                    owner=row.owner,
                    silent=row.silent,
                    stale=row.silent,
                )
                for number, row in self.alive().items()
                if row.queue in names or row.name in named or row.pod in owned
            ),
        )

    def _info(self, name: str, row: QueueRow) -> QueueInfo:
        return QueueInfo(
            id=QueueId(self.ids[name]),
            queue_name=name,
            created_at=_THEN,
            policy=row.policy,
            owner=row.owner,
            retention=row.retention,
        )

    def carry_out(self, actions: Iterable[Action]) -> None:
        """Do what is planned; what is not as it was when that was decided is left alone."""
        for action in sorted(actions, key=lambda one: _ORDER.index(type(one))):
            match action:
                case facts.DeclareQueue():
                    self._declare(action)
                case facts.DisownQueue(name=name, owner=owner):
                    if name in self.queues and self.queues[name].owner == owner:
                        self.queues[name].owner = None
                case facts.DeleteQueue(name=name, seen=seen):
                    row = self.queues.get(name)
                    if row and (self.ids[name], row.owner) == (seen.id, seen.owner) and not self.live(name):
                        self.remove(name)
                case _:
                    self._change_worker(action)

    def _declare(self, action: facts.DeclareQueue) -> None:
        declared = action.declaration
        row = self.queues.get(declared.name)
        if row is None:
            kept = declared.retention or QueueRetention()
            self.make(declared.name, QueueRow(declared.policy, kept, declared.owner), declared.former_id)
        elif row.owner == declared.previous_owner:
            row.policy, row.owner = declared.policy, declared.owner
            row.retention = declared.retention or row.retention

    def _change_worker(
        self, action: facts.InterruptWorker | facts.SuspendWorker | facts.ResumeWorker | facts.StopWorker
    ) -> None:
        row = self.alive().get(action.worker_id)
        if row is None:
            return
        match action:
            case facts.InterruptWorker(owner=owner) if row.status in WORKING and not row.terminating:
                row.status, row.owner = WorkerStatus.INTERRUPTED, owner
            case facts.SuspendWorker() if row.status is WorkerStatus.INTERRUPTED and not (row.terminating or row.held):
                row.status = WorkerStatus.SUSPENDED
            case facts.ResumeWorker() if not row.terminating:
                row.status = WorkerStatus.READY if row.status in _PAUSED else row.status
                row.owner = None
            case facts.StopWorker(only_if=only_if) if (
                only_if == ""
                or (only_if == "silent" and row.silent)
                or (only_if == "idle" and row.status in _PAUSED and not row.held)
            ):
                self.queues[row.queue].free += row.held
                row.status, row.held = WorkerStatus.STOPPED, 0
            case _:
                pass


def _worker(number: int, row: WorkerRow) -> WorkerInfo:
    hostname, _, port = row.name.rpartition(":")
    return WorkerInfo(
        id=WorkerId(number),
        name=row.name,
        hostname=hostname,
        port=int(port),
        queue_id=None,
        status=row.status,
        started_at=_THEN,
        heartbeat_at=_THEN,
        shutdown_at=None,
        pod_uid=row.pod,
        pod_name=row.pod and POD_NAMES[row.pod],
        pod_namespace=row.pod and "shop",
        terminating=row.terminating,
        leased=row.held,
    )
