"""Makes what is declared about one database true: observe, plan, act, until nothing is left to do; then say so.

One loop runs for each database, so a slow one holds up nobody else. It keeps nothing that a restart would miss.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pgqrs import fleet
from pgqrs_operator import declarations
from pgqrs_operator.actions import Outcome, carry_out
from pgqrs_operator.assignment import Assignment
from pgqrs_operator.counting import Counts
from pgqrs_operator.deaths import deaths
from pgqrs_operator.endings import Endings
from pgqrs_operator.explanations import Explanations
from pgqrs_operator.facts import Observed
from pgqrs_operator.fencing import FencedDatabase, always
from pgqrs_operator.findings import Findings, Told
from pgqrs_operator.outages import Outages
from pgqrs_operator.pace import Pace
from pgqrs_operator.plan import plan
from pgqrs_operator.reaper import Reaper
from pgqrs_operator.state import State
from pgqrs_operator.surroundings import Surroundings
from pgqrs_operator.tables import Tables

if TYPE_CHECKING:
    from pgqrs.database import Database
    from pgqrs.fleet import Fleet
    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.deletion_cost import DeletionCosts
    from pgqrs_operator.facts import Desired
    from pgqrs_operator.fencing import MayWrite
    from pgqrs_operator.metrics import Metrics
    from pgqrs_operator.reports import Reporter
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Store

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0
#: Changes come in flocks (a Deployment rolls); a round takes all that come within this time, in seconds.
_GATHER_SECONDS = 0.05
#: One statement, waiting for a connection included, in seconds.
_STATEMENT_SECONDS = 8.0
_MOST_PASSES = 5
#: The longest that one round may take, in seconds; all that it waits for has a deadline, but nobody knows every defect.
_ROUND_SECONDS = 300.0
#: After an outage workers get so long to show that they live, in seconds: three intervals of their heartbeats.
_GRACE_SECONDS = 15.0


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
        costs: DeletionCosts | None = None,
    ) -> None:
        """Take a database that is this loop's to close.

        Args:
            database: where the rows are.
            costs: who is told which pods are busy, if anybody.
        """
        self._database = database
        self._store = store
        self._reporter = reporter
        self._settings = settings
        self._metrics = metrics
        self._costs = costs
        self._tables = Tables(database)
        self._outages = Outages(reporter, self._tables, database.where)
        self._surroundings = Surroundings(store, settings, Endings(kubernetes, store.pods))
        self._counts = Counts(database)
        self._findings = Findings(reporter, store, self._counts, metrics)
        self._pace = Pace()
        self._reaper = Reaper(database, metrics)
        self._explanations = Explanations(database)
        self._assignment = Assignment(queues=(), workers=(), pods=())
        self._wake = asyncio.Event()
        #: A pod ended since the rows were last looked at.
        self._died = False
        #: When a round last failed, by the event loop's clock; the operator's own start counts as one.
        self._failed_at = asyncio.get_running_loop().time()
        #: Statements that were counted.
        self._sent = 0
        #: All was counted, and not all of it was told.
        self._numbers_due = False
        #: What the last round found, if nothing is left to do about it.
        self._steady: State | None = None

    @classmethod
    def open(cls, dsn: str, schema_name: str, *, may_write: MayWrite = always, **parts: Any) -> DatabaseLoop:
        """Make a loop for the database of this address."""
        database = FencedDatabase(
            dsn,
            may_write=may_write,
            schema=schema_name,
            max_connections=2,
            application_name="pgqrs operator",
            timeout=_STATEMENT_SECONDS,
        )
        return cls(database, **parts)

    def assign(self, assignment: Assignment) -> None:
        """Take what is declared now; a difference wakes the loop."""
        if assignment != self._assignment:
            self._died |= not self._assignment.living <= assignment.living
            self._assignment = assignment
            self._wake.set()

    async def run(self) -> None:
        """Go round for ever."""
        reaping = asyncio.create_task(self._reaper.run(), name="reaper")
        self._metrics.database_taken(self._database.where)
        self._metrics.loop_heard(self)
        try:
            while True:
                self._wake.clear()
                pause = await self._guarded_round()
                self._metrics.loop_heard(self)
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(_GATHER_SECONDS)
        finally:
            self._metrics.loop_ended(self)
            self._metrics.database_left(self._database.where)
            reaping.cancel()
            await asyncio.wait([reaping])
            await self._database.aclose()

    async def _guarded_round(self) -> float:
        """Go round once; give the time to the next round, in seconds."""
        started = asyncio.get_running_loop().time()
        try:
            pause = await self._round()
        except Exception as error:  # noqa: BLE001 - told in every condition, and tried again
            self._steady = None
            self._failed_at = asyncio.get_running_loop().time()
            self._tables.distrust()
            self._metrics.database_failed(self._database.where)
            await self._outages.tell(error, self._assignment)
            return _RETRY_SECONDS
        finally:
            # Those of the reaper come between rounds.
            self._metrics.round_trips(self._database.round_trips - self._sent)
            self._sent = self._database.round_trips
        self._outages.over()
        self._metrics.round_took(self._database.where, asyncio.get_running_loop().time() - started)
        return pause

    # -- one round

    async def _round(self) -> float:
        """Make everything true that can be now; give the time to the next round, in seconds."""
        if await self._tables.prepare(self._assignment.queues):
            # While tables are altered nobody can send a heartbeat.
            self._failed_at = asyncio.get_running_loop().time()
        # That may have taken minutes.
        self._metrics.loop_heard(self)
        async with asyncio.timeout(_ROUND_SECONDS):
            return await self._compare()

    async def _compare(self) -> float:
        """Compare what is declared with the rows, unless both are as before; give the time to the next, in seconds."""
        now = asyncio.get_running_loop().time()
        steady, self._steady = self._steady, None
        if steady is not None and steady.assignment is self._assignment:
            found = await self._observe(steady.desired, before=steady.found)
            if found is steady.found:
                return await self._conclude(steady, now, told=True)
        all_held = await self._hold_all()
        self._died = False
        assignment = self._assignment
        self._surroundings.know(assignment.pods, assignment.workers)
        queues = [queue for queue in assignment.queues if queue.held or queue.frozen]
        workers = [worker for worker in assignment.workers if worker.held or worker.frozen]
        names = {queue.key: queue.queue_name for queue in assignment.queues}
        desired = declarations.desired(queues, workers, assignment.pods, self._settings, queue_names=names)
        outcome = Outcome()
        for left in reversed(range(_MOST_PASSES)):
            found = await self._observe(desired)
            complete, ends = await self._surroundings.complete(desired, found)
            silence_counts = now - self._failed_at > _GRACE_SECONDS
            planned = plan(
                complete,
                Observed(fleet=found, ended=ends.pods, restarts=ends.containers, silence_counts=silence_counts),
            )
            if not planned.actions or not left or not outcome.complete:
                break
            known = deaths(planned.actions, found, ends.reasons, self._store.pods)
            outcome = await carry_out(self._database, planned.actions, self._metrics, known)
            await self._findings.announce(
                planned,
                outcome,
                found=found,
                queues={queue.key: queue for queue in queues},
                workers={worker.key: worker for worker in workers},
            )
        await self._explanations.give(assignment.pods)
        state = State(
            assignment=assignment,
            queues=tuple(queues),
            workers=tuple(workers),
            desired=desired,
            found=found,
            planned=outcome.judged(planned),
            steady=len(queues) == len(assignment.queues)
            and len(workers) == len(assignment.workers)
            and silence_counts
            and not ends.asked,
        )
        pause = await self._conclude(state, now)
        return pause if all_held else 0.0

    async def _conclude(self, state: State, began: float, *, told: bool = False) -> float:
        """Say what was found, and give the time to the next round, in seconds.

        Args:
            state: what was found.
            began: when the round began, by the event loop's clock.
            told: all was said before, but for numbers.
        """
        if self._costs is not None:
            self._costs.note(state.found.workers)
        self._reaper.serve(state.planned.served)
        self._numbers_due |= await self._count(state)
        report = Told(all=True, writes=0)
        if self._numbers_due or not told:
            report = await self._findings.report(state, counted=self._numbers_due, hurry=self._hurries)
        if not report.all:
            return 0.0
        self._numbers_due = False
        # A write that succeeded brings another assignment, and one that failed is to be tried again.
        if not report.writes and state.lasts():
            self._steady = state
        took = asyncio.get_running_loop().time() - began
        return self._pace.after(began, took, state.planned.queues, state.planned.workers)

    async def _count(self, state: State) -> bool:
        """Count what is due and show it; tell whether all messages were counted just now."""
        backlogs = self._metrics.backlogs
        counted = await self._counts.refresh(
            [queue.queue_name for queue in state.queues if queue.queue_name in state.found.queues],
            urgent=[queue.queue_name for queue in state.queues if backlogs.is_urgent(queue.key)],
        )
        for queue in state.queues:
            verdict = state.planned.queues.get(queue.key)
            # The row of a queue in conflict, and what is in it, is somebody else's.
            own = verdict is not None and verdict.reason != "Conflict"
            backlogs.put(queue.key, self._counts.backlog(queue.queue_name) if own else None)
        return counted

    async def _hold_all(self) -> bool:
        """Nothing is written for a resource before it is sure to tell us of its end; tell whether all are, by now."""
        all_held = await self._reporter.in_time(
            (
                self._reporter.hold(resource)
                for resource in (*self._assignment.queues, *self._assignment.workers)
                if not (resource.held or resource.frozen or resource.deleting)
            ),
            hurry=self._hurries,
        )
        store, assignment = self._store, self._assignment
        self._assignment = replace(
            assignment,
            queues=tuple(store.queues.get(queue.uid) or queue for queue in assignment.queues),
            workers=tuple(store.workers.get(worker.uid) or worker for worker in assignment.workers),
        )
        return all_held

    def _hurries(self) -> bool:
        """Whether the messages of the dead wait for the next look at the rows."""
        return self._died

    async def _observe(self, desired: Desired, before: Fleet | None = None) -> Fleet:
        return await fleet.observe(
            self._database,
            queues=[queue.name for queue in desired.queues],
            emptying=[queue.name for queue in desired.queues if queue.deleting and queue.delete_data],
            workers=[worker.row_name for worker in desired.workers if worker.row_name],
            pods=[worker.pod_uid for worker in desired.workers if worker.pod_uid],
            before=before,
        )
