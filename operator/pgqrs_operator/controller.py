"""Hands every resource to the loop of the database it belongs to, and says what is wrong with the others."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from pgqrs_operator import verdicts
from pgqrs_operator.assignment import Assignment
from pgqrs_operator.database_loop import DatabaseLoop
from pgqrs_operator.deletion_cost import DeletionCosts
from pgqrs_operator.facts import Key
from pgqrs_operator.farewell import tell_or_let_go
from pgqrs_operator.fencing import always
from pgqrs_operator.reports import Reporter
from pgqrs_operator.secrets import Address, Addresses

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.fencing import MayWrite
    from pgqrs_operator.metrics import Metrics
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.secrets import SecretKey
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Queue, Store, Worker
    from pgqrs_operator.verdicts import Verdict

_log = logging.getLogger(__name__)

#: Secrets are looked at this often where nothing else happens, in seconds.
_TICK_SECONDS = 2.0
#: Changes come in flocks: so long a turn waits for more of them. From a turn to the next one is a multiple of what it
#: took, up to so many seconds.
_GATHER_SECONDS = 0.05
_GATHER_SHARE = 12
_MOST_GATHER_SECONDS = 1.5
#: A loop that is told to end may take this long for its last statement, in seconds.
_END_SECONDS = 10.0


class DatabaseKey(NamedTuple):
    """What makes two queues live in the same tables."""

    dsn: str
    schema: str


class _Running(NamedTuple):
    loop: DatabaseLoop
    task: asyncio.Task[None]


class _Sorted(NamedTuple):
    """The queues by their database."""

    groups: dict[DatabaseKey, list[Queue]]
    #: Uids of queues whose database is only remembered.
    orphans: frozenset[str]
    #: Queues without a database, and what is wrong.
    problems: dict[Key, tuple[Queue, Verdict]]


class Controller:
    """Runs one loop per database."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        store: Store,
        settings: Settings,
        metrics: Metrics,
        *,
        may_write: MayWrite = always,
    ) -> None:
        self._kubernetes = kubernetes
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._may_write = may_write
        self._reporter = Reporter(kubernetes, store)
        self._costs = DeletionCosts(kubernetes, store) if settings.deletion_cost else None
        self._addresses = Addresses(kubernetes)
        self._running: dict[DatabaseKey, _Running] = {}
        #: Loops that were told to end and have not yet.
        self._ending: set[asyncio.Task[None]] = set()
        #: The last turn had nothing to write, so that the next one has not either, unless something changes.
        self._settled = False
        #: The membership of the queues of which numbers are kept; None before the first turn.
        self._kept: int | None = None
        #: Uids of pods of which it was said that they have no sidecar.
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Assign for ever.

        Raises:
            RuntimeError: a loop ended, which is a defect; the process must be started anew.
        """
        loop = asyncio.get_running_loop()
        costing = None if self._costs is None else asyncio.create_task(self._costs.run(), name="costs of deletion")
        try:
            while True:
                changed = self._store.changed.is_set()
                self._store.changed.clear()
                began = loop.time()
                await self._turn(changed=changed)
                ended = loop.time()
                self._metrics.controller_turned()
                try:
                    async with asyncio.timeout(_TICK_SECONDS):
                        await self._store.changed.wait()
                except TimeoutError:
                    continue
                due = ended + min(_GATHER_SHARE * (ended - began), _MOST_GATHER_SECONDS)
                await asyncio.sleep(max(_GATHER_SECONDS, due - loop.time()))
        finally:
            self._end(list(self._running))
            if costing is not None:
                costing.cancel()
                self._ending.add(costing)
            if self._ending:
                await asyncio.wait(self._ending, timeout=_END_SECONDS)

    async def _turn(self, *, changed: bool) -> None:
        """Assign, unless nothing is different from the last time and nothing was to be written then."""
        for loop in self._running.values():
            if loop.task.done():
                message = "A database loop has ended."
                raise RuntimeError(message) from loop.task.exception()
        if changed or not self._settled or await self._addresses.refresh(self._addresses.keys()):
            self._settled = False
            await self._assign()

    async def _assign(self) -> None:
        if self._kept != self._store.queues.membership:
            self._kept = self._store.queues.membership
            self._metrics.backlogs.keep(queue.key for queue in self._store.queues)
        groups, orphans, problems = await self._sort()
        homes = {queue.key: key for key, members in groups.items() for queue in members}
        workers: dict[DatabaseKey, list[Worker]] = defaultdict(list)
        homeless: list[Worker] = []
        for worker in self._store.workers:
            home = homes.get(worker.queue_key) if worker.queue_key else None
            (homeless if home is None else workers[home]).append(worker)
        pods = defaultdict(list)
        for pod in self._store.pods:
            home = homes.get(Key(pod.key.namespace, pod.queue))
            if home is not None:
                pods[home].append(pod)
        for key, queues in groups.items():
            self._loop(key).assign(
                Assignment(
                    queues=tuple(queues),
                    workers=tuple(workers[key]),
                    pods=tuple(pods[key]),
                    orphans=orphans.intersection(queue.uid for queue in queues),
                )
            )
        self._end([key for key in self._running if key not in groups])
        writes = self._writes(homes, homeless, problems)
        first = next(writes, None)
        self._settled = first is None
        if first is not None:
            await self._reporter.in_time(itertools.chain([first], writes))

    def _writes(
        self, homes: dict[Key, DatabaseKey], homeless: list[Worker], problems: dict[Key, tuple[Queue, Verdict]]
    ) -> Iterator[Coroutine[Any, Any, None]]:
        """Make the writes that are no loop's, one by one."""
        uninjected = self._without_sidecar()
        for pod in self._missing_workers(homes):
            yield self._reporter.create_worker(pod)
        for worker in homeless:
            yield self._homeless(worker, problems)
        for queue, verdict in problems.values():
            # What somebody has to mend about a Secret, nobody can know of its database.
            yield tell_or_let_go(self._reporter, queue, verdict, gone=verdict.kind == "stalled")
        for pod in uninjected:
            yield self._report_without_sidecar(pod)

    async def _sort(self) -> _Sorted:
        """Sort the queues by their database; those without one come with what is wrong."""
        groups: dict[DatabaseKey, list[Queue]] = defaultdict(list)
        orphans: set[str] = set()
        problems: dict[Key, tuple[Queue, Verdict]] = {}
        by_secret: dict[SecretKey, list[Queue]] = defaultdict(list)
        for queue in self._store.queues:
            by_secret[queue.secret].append(queue)
        await self._addresses.refresh(by_secret.keys())
        for secret, queues in by_secret.items():
            known, last = (self._addresses.find(secret, leftover=leftover) for leftover in (False, True))
            for queue in queues:
                found = known if queue.deleting is None else last
                if isinstance(found, Address):
                    groups[DatabaseKey(found.dsn, queue.spec.connection.schema_)].append(queue)
                    if found.leftover:
                        orphans.add(queue.uid)
                else:
                    problems[queue.key] = queue, found
        return _Sorted(groups, frozenset(orphans), problems)

    async def _homeless(self, worker: Worker, problems: dict[Key, tuple[Queue, Verdict]]) -> None:
        """Answer for a worker whose queue has no database."""
        key = worker.queue_key
        if key is None:
            verdict = verdicts.stalled("InvalidSpec", worker.problem)
        elif key in problems:
            verdict = problems[key][1]
        else:
            verdict = verdicts.stalled("QueueNotFound", f"There is no PgqrsQueue {key}; create it, or delete this.")
            if worker.deleting is not None and not worker.frozen:
                # Nobody can say any more which rows were meant.
                await self._reporter.let_go(worker)
                return
        await tell_or_let_go(self._reporter, worker, verdict)

    async def _report_without_sidecar(self, pod: Pod) -> None:
        self._reported.add(pod.uid)
        await self._reporter.report_without_sidecar(pod)

    def _missing_workers(self, homes: dict[Key, DatabaseKey]) -> list[Pod]:
        """Give each injected pod that has no `PgqrsWorker` and goes on."""
        # A uid alone is what somebody wrote; nobody may speak for the pods of another namespace.
        going_on = [pod for pod in self._store.pods if pod.injected and not (pod.ending or pod.final)]
        if not going_on:
            return []
        mirrored = {(worker.key.namespace, worker.pod_uid) for worker in self._store.workers}
        names = {worker.key for worker in self._store.workers}
        return [
            pod
            for pod in going_on
            if (pod.key.namespace, pod.uid) not in mirrored
            and pod.key not in names
            and Key(pod.key.namespace, pod.queue) in homes
        ]

    def _without_sidecar(self) -> list[Pod]:
        """Give each labelled pod that no injector met and of which that was not said."""
        there = {pod.uid: pod for pod in self._store.pods if not (pod.injected or pod.ending or pod.final)}
        self._reported &= there.keys()
        self._metrics.pods_without_sidecar(len(there))
        return [there[uid] for uid in there.keys() - self._reported]

    def _loop(self, key: DatabaseKey) -> DatabaseLoop:
        running = self._running.get(key)
        if running is None:
            loop = DatabaseLoop.open(
                key.dsn,
                key.schema,
                may_write=self._may_write,
                kubernetes=self._kubernetes,
                store=self._store,
                reporter=self._reporter,
                settings=self._settings,
                metrics=self._metrics,
                costs=self._costs,
            )
            running = _Running(loop, asyncio.create_task(loop.run(), name="database loop"))
            self._running[key] = running
        return running.loop

    def _end(self, keys: list[DatabaseKey]) -> None:
        """Tell loops to end; nobody waits for their last statements before the end of all."""
        for key in keys:
            task = self._running.pop(key).task
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a database loop ended badly", exc_info=task.exception())
