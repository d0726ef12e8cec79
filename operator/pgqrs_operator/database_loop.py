"""Makes what is declared about one database true: observe, plan, act, until nothing is left to do; then say so.

One loop runs for each database, so a slow one holds up nobody else. It keeps nothing that a restart would miss.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pgqrs import errors, fleet, schema
from pgqrs.database import Database
from pgqrs_operator import declarations, verdicts
from pgqrs_operator.actions import carry_out
from pgqrs_operator.endings import Endings
from pgqrs_operator.facts import DeclareQueue, Observed
from pgqrs_operator.plan import plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from pgqrs.fleet import Fleet, FleetCounts, FleetWorker
    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.facts import Action, Desired, Key, Plan, WorkerReport
    from pgqrs_operator.metrics import Metrics
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.reports import Reporter
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Queue, Store, Worker
    from pgqrs_operator.verdicts import Verdict

_log = logging.getLogger(__name__)

#: Between two looks at the rows, in seconds: while something is under way, and otherwise.
_BUSY_SECONDS = 1.0
_IDLE_SECONDS = 5.0
_RETRY_SECONDS = 2.0
#: Between two counts of messages, and between two looks whether the tables are complete, in seconds.
_COUNT_SECONDS = 10.0
_VERIFY_SECONDS = 60.0
#: Changes come in flocks (a Deployment rolls); a round takes all that come within this time, in seconds.
_GATHER_SECONDS = 0.05
#: One statement, waiting for a connection included, in seconds.
_STATEMENT_SECONDS = 8.0
_MOST_PASSES = 5
#: After an outage workers get so long to show that they live, in seconds: three intervals of their heartbeats.
_GRACE_SECONDS = 15.0
#: A deletion that cannot reach its database is let go after this time.
LET_GO_AFTER = timedelta(seconds=30)

#: What is said of a row that was written, by cause.
_CAUSES = {
    "Created": "Queue {name!r} was created in the database.",
    "Recreated": "Queue {name!r} was gone from the database and was created again.",
    "Adopted": "Queue {name!r} was there already and belongs to this resource now.",
    "Updated": "Queue {name!r} was changed as declared.",
    "DriftRepaired": "Queue {name!r} was changed by somebody else and was set right.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The resources and pods of one database, as they were last seen."""

    queues: tuple[Queue, ...]
    workers: tuple[Worker, ...]
    pods: tuple[Pod, ...]


class DatabaseLoop:
    """Looks after one database."""

    def __init__(  # noqa: D417 - the others are what their names say
        self,
        database: Database,
        *,
        kubernetes: Kubernetes,
        store: Store,
        reporter: Reporter,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        """Take a database that is this loop's to close.

        Args:
            database: where the rows are.
        """
        self._database = database
        self._store = store
        self._reporter = reporter
        self._settings = settings
        self._metrics = metrics
        self._endings = Endings(kubernetes)
        self._assignment = Assignment(queues=(), workers=(), pods=())
        self._wake = asyncio.Event()
        #: Uids of pods that this cluster is known to have had.
        self._ours: set[str] = set()
        #: Uids of the pods that the rows named when they were last read.
        self._row_pods: set[str] = set()
        #: When a round last failed, by the event loop's clock; the operator's own start counts as one.
        self._failed_at = asyncio.get_running_loop().time()
        self._counts: dict[str, FleetCounts] = {}
        self._counted_at = float("-inf")
        self._verified_at = float("-inf")

    @classmethod
    def open(cls, dsn: str, schema_name: str, **parts: Any) -> DatabaseLoop:
        """Make a loop for the database of this address."""
        database = Database(
            dsn, schema=schema_name, max_connections=2, application_name="pgqrs operator", timeout=_STATEMENT_SECONDS
        )
        return cls(database, **parts)

    def assign(self, assignment: Assignment) -> None:
        """Take what is declared now; a difference wakes the loop."""
        if assignment != self._assignment:
            self._assignment = assignment
            self._wake.set()

    async def run(self) -> None:
        """Go round for ever."""
        try:
            while True:
                self._wake.clear()
                pause = await self._guarded_round()
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(_GATHER_SECONDS)
        finally:
            await self._database.aclose()

    async def _guarded_round(self) -> float:
        started = asyncio.get_running_loop().time()
        try:
            busy = await self._round()
        except errors.DatabaseUnavailableError as error:
            await self._tell_all(verdicts.waiting("DatabaseUnavailable", str(error)))
            return _RETRY_SECONDS
        except errors.SchemaError as error:
            self._verified_at = float("-inf")
            await self._tell_all(verdicts.stalled("SchemaNotUsable", str(error)))
            return _RETRY_SECONDS
        except errors.PgqrsError as error:
            await self._tell_all(verdicts.stalled("DatabaseRefused", str(error)))
            return _RETRY_SECONDS
        except Exception:  # noqa: BLE001 - logged with its trace, told in every condition, tried again
            # A defect that one object brings about must not end the operator for all others.
            _log.exception("round failed", extra={"database": self._database.where})
            text = "The operator met a defect of its own, which its log shows; it tries again."
            await self._tell_all(verdicts.stalled("InternalError", text))
            return _RETRY_SECONDS
        self._metrics.round_took(self._database.where, asyncio.get_running_loop().time() - started)
        return _BUSY_SECONDS if busy else _IDLE_SECONDS

    async def _tell_all(self, verdict: Verdict) -> None:
        """Say the same of every resource, and let those go that have waited for their deletion long enough."""
        self._failed_at = asyncio.get_running_loop().time()
        self._metrics.database_failed(self._database.where)
        resources: list[Queue | Worker] = [*self._assignment.queues, *self._assignment.workers]
        await self._reporter.together(
            tell_or_let_go(self._reporter, resource, verdict) for resource in resources if not resource.frozen
        )

    # -- one round

    async def _round(self) -> bool:
        """Make everything true that can be now; tell whether something is still under way."""
        await self._prepare()
        await self._hold_all()
        assignment = self._assignment
        self._ours &= self._row_pods
        self._ours |= {pod.uid for pod in assignment.pods}
        self._ours |= {worker.pod_uid for worker in assignment.workers if worker.pod_uid}
        held_queues = [queue for queue in assignment.queues if queue.held or queue.frozen]
        held_workers = [worker for worker in assignment.workers if worker.held or worker.frozen]
        desired = declarations.desired(held_queues, held_workers, assignment.pods, self._settings)
        now = asyncio.get_running_loop().time()
        problems: dict[Key, str] = {}
        for left in reversed(range(_MOST_PASSES)):
            found = await self._observe(desired)
            complete, ended = await self._with_pods(desired, found)
            planned = plan(
                complete, Observed(fleet=found, ended=ended, silence_counts=now - self._failed_at > _GRACE_SECONDS)
            )
            if not planned.actions or not left or problems:
                break
            problems = await carry_out(self._database, planned.actions, self._metrics)
            await self._announce(planned.actions)
        refused = {key: verdicts.waiting("DeletionRefused", text) for key, text in problems.items()}
        planned = replace(planned, queues={**planned.queues, **refused})
        counted = await self._count([queue.queue_name for queue in held_queues])
        await self._report(held_queues, held_workers, found, planned, counted=counted)
        return any(v.kind == "waiting" and v.reason != "WaitingForWorker" for v in planned.workers.values()) or any(
            v.kind == "waiting" for v in planned.queues.values()
        )

    async def _prepare(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._verified_at < _VERIFY_SECONDS:
            return
        if any(queue.spec.connection.manage_schema and not queue.deleting for queue in self._assignment.queues):
            await self._install()
        else:
            await schema.verify(self._database)
        self._verified_at = now

    async def _install(self) -> None:
        """Install only where something is missing: it may take minutes, and waits for any other installer."""
        try:
            await schema.verify(self._database)
        except errors.SchemaError:
            await schema.install(self._database)
            # While tables are altered nobody can send a heartbeat.
            self._failed_at = asyncio.get_running_loop().time()

    async def _hold_all(self) -> None:
        """Nothing is written for a resource before it is sure to tell us of its end."""
        await self._reporter.together(
            self._reporter.hold(resource)
            for resource in (*self._assignment.queues, *self._assignment.workers)
            if not (resource.held or resource.frozen or resource.deleting)
        )
        store, assignment = self._store, self._assignment
        self._assignment = replace(
            assignment,
            queues=tuple(store.queues.get(queue.uid) or queue for queue in assignment.queues),
            workers=tuple(store.workers.get(worker.uid) or worker for worker in assignment.workers),
        )

    async def _observe(self, desired: Desired) -> Fleet:
        return await fleet.observe(
            self._database,
            queues=[queue.name for queue in desired.queues],
            emptying=[queue.name for queue in desired.queues if queue.deleting and queue.delete_data],
            workers=[worker.row_name for worker in desired.workers if worker.row_name],
            pods=[worker.pod_uid for worker in desired.workers if worker.pod_uid],
        )

    async def _with_pods(self, desired: Desired, found: Fleet) -> tuple[Desired, dict[str, str]]:
        """Add what the rows tell: pods that left only rows behind, owners elsewhere; and which pods have ended.

        The rows were read before: what they show belongs to processes that are no younger than what is confirmed here.
        """
        self._row_pods = {row.info.pod_uid for row in found.workers if row.info.pod_uid}
        declared = {worker.pod_uid for worker in desired.workers}
        lost: dict[str, FleetWorker] = {}
        for row in found.workers:
            uid = row.info.pod_uid
            if uid and uid not in declared and self._store.pods.get(uid) is None and self._is_ours(row):
                lost[uid] = row
        existing = {self._settings.owner(*queue.key) for queue in self._store.queues}
        complete = replace(
            desired,
            workers=(*desired.workers, *(declarations.lost_worker(row, self._settings) for row in lost.values())),
            others=declarations.foreign_owners(found, desired.queues, existing, self._settings),
        )
        missing: dict[str, Key] = {}
        ended: dict[str, Pod] = {}
        for worker in complete.workers:
            if worker.pod_uid is None:
                continue
            pod = self._store.pods.get(worker.pod_uid)
            if pod is None:
                missing[worker.pod_uid] = worker.key
            elif pod.ended is not None:
                ended[pod.uid] = pod
        return complete, await self._endings.confirmed(missing, ended)

    def _is_ours(self, row: FleetWorker) -> bool:
        """Whether a row's pod is one of this cluster. Without a name, another cluster's rows look like ours."""
        watched = self._settings.watch_namespace in {None, row.info.pod_namespace}
        named = self._settings.cluster is not None and row.info.cluster == self._settings.cluster
        return watched and (named or row.info.pod_uid in self._ours)

    def _ended_for_good(self, pod_uid: str) -> bool:
        pod = self._store.pods.get(pod_uid)
        return pod is None or pod.final

    async def _announce(self, actions: Iterable[Action]) -> None:
        by_key = {queue.key: queue for queue in self._assignment.queues}
        for action in actions:
            if isinstance(action, DeclareQueue) and action.key in by_key:
                text = _CAUSES[action.cause].format(name=action.declaration.name)
                warning = action.cause in {"Recreated", "DriftRepaired"}
                await self._reporter.event(by_key[action.key], action.cause, text, warning=warning)

    # -- reports

    async def _count(self, names: list[str]) -> bool:
        """Count messages and workers where it is time to; tell whether it was."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_at < _COUNT_SECONDS and all(name in self._counts for name in names):
            return False
        self._counted_at = now
        try:
            self._counts = await fleet.counts(self._database, names)
        except errors.DatabaseError as error:
            # Numbers are for people; what is declared comes true without them.
            _log.warning("messages not counted", extra={"database": self._database.where, "error": str(error)})
        return True

    async def _report(
        self, held: list[Queue], workers: list[Worker], found: Fleet, planned: Plan, *, counted: bool
    ) -> None:
        writes: list[Awaitable[None]] = []
        pods = {pod.uid: pod for pod in self._assignment.pods}
        for queue in held:
            if queue.key in planned.done_queues:
                writes.append(self._reporter.let_go(queue))
            elif queue.key in planned.queues:
                verdict = planned.queues[queue.key]
                writes.append(self._reporter.tell(queue, verdict, self._queue_details(queue, found, verdict)))
        for worker in workers:
            mirrored = worker.deleting is not None and declarations.lives(pods.get(worker.pod_uid or ""))
            done = worker.key in planned.done_workers
            if mirrored or (done and worker.deleting):
                writes.append(self._reporter.let_go(worker))
            elif done and worker.pod_uid and self._ended_for_good(worker.pod_uid):
                writes.append(self._reporter.discard(worker))
            elif worker.key in planned.workers:
                details = _worker_details(worker, planned.reports.get(worker.key), counted=counted)
                writes.append(self._reporter.tell(worker, planned.workers[worker.key], details))
        await self._reporter.together(writes)

    def _queue_details(self, queue: Queue, found: Fleet, verdict: Verdict) -> dict[str, Any] | None:
        row = found.queues.get(queue.queue_name)
        if row is None or verdict.reason == "Conflict":
            return {}
        details: dict[str, Any] = {"queueName": row.info.queue_name, "queueId": row.info.id}
        counts = self._counts.get(queue.queue_name)
        if counts is not None:
            messages = counts.messages
            details["messages"] = {
                "ready": messages.ready,
                "delayed": messages.delayed,
                "leased": messages.leased,
                "dead": messages.dead,
            }
            details["workers"] = {"ready": counts.ready, "suspended": counts.suspended, "stopped": counts.stopped}
        return details


def _worker_details(worker: Worker, report: WorkerReport | None, *, counted: bool) -> dict[str, Any]:
    if report is None:
        return {}
    # What a busy worker holds changes all the time; it is told as often as the queue's messages are counted.
    told = worker.status.get("leasedMessages")
    settled = report.state == worker.status.get("state") == "Ready" and told is not None and report.leased
    details: dict[str, Any] = {
        "workerIds": list(report.worker_ids),
        "state": report.state,
        "leasedMessages": told if settled and not counted else report.leased,
    }
    if worker.pod_name is not None:
        details["pod"] = worker.pod_name
    if report.stale is not None:
        details["heartbeat"] = "Stale" if report.stale else "Fresh"
    return details


async def tell_or_let_go(reporter: Reporter, resource: Queue | Worker, verdict: Verdict) -> None:
    """Say what is wrong, or, where a deletion has waited too long for a database that cannot be had, let it go."""
    keeps_data = resource.kind != "PgqrsQueue" or resource.spec.deletion_policy == "Retain"  # type: ignore[union-attr]
    if resource.deleting is not None and keeps_data and datetime.now(UTC) - resource.deleting > LET_GO_AFTER:
        await reporter.event(
            resource, "LetGo", f"It is let go without a look at its rows, which stay: {verdict.message}", warning=True
        )
        await reporter.let_go(resource)
        return
    await reporter.tell(resource, verdict)
