"""Hands every resource to the loop of the database it belongs to, and says what is wrong with the others."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pgqrs_operator import verdicts
from pgqrs_operator.database_loop import Assignment, DatabaseLoop, tell_or_let_go
from pgqrs_operator.facts import Key
from pgqrs_operator.reports import Reporter
from pgqrs_operator.secrets import Addresses, SecretKey

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.metrics import Metrics
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Queue, Store, Worker
    from pgqrs_operator.verdicts import Verdict

_log = logging.getLogger(__name__)

#: Secrets are looked at this often where nothing else happens, in seconds.
_TICK_SECONDS = 2.0
#: A loop that is told to end may take this long for its last statement, in seconds.
_END_SECONDS = 10.0


class DatabaseKey(NamedTuple):
    """What makes two queues live in the same tables."""

    dsn: str
    schema: str


class _Running(NamedTuple):
    loop: DatabaseLoop
    task: asyncio.Task[None]


def _secret(queue: Queue) -> SecretKey:
    reference = queue.spec.connection.secret_ref
    return SecretKey(queue.key.namespace, reference.name, reference.key)


class Controller:
    """Runs one loop per database."""

    def __init__(self, kubernetes: Kubernetes, store: Store, settings: Settings, metrics: Metrics) -> None:
        self._kubernetes = kubernetes
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._reporter = Reporter(kubernetes, store)
        self._addresses = Addresses(kubernetes)
        self._running: dict[DatabaseKey, _Running] = {}
        #: Uids of pods of which it was said that they have no sidecar.
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Assign for ever.

        Raises:
            RuntimeError: a loop ended, which is a defect; the process must be started anew.
        """
        try:
            while True:
                self._store.changed.clear()
                await self._assign()
                self._metrics.controller_turned()
                try:
                    async with asyncio.timeout(_TICK_SECONDS):
                        await self._store.changed.wait()
                except TimeoutError:
                    continue
        finally:
            await self._end(list(self._running))

    async def _assign(self) -> None:
        groups, problems = await self._group()
        homes = {queue.key: key for key, members in groups.items() for queue in members}
        workers: dict[DatabaseKey, list[Worker]] = defaultdict(list)
        writes: list[Awaitable[None]] = []
        for worker in self._store.workers:
            home = homes.get(worker.queue_key) if worker.queue_key else None
            if home is not None:
                workers[home].append(worker)
            elif not worker.frozen:
                writes.append(self._homeless(worker, problems))
        writes += [
            tell_or_let_go(self._reporter, queue, verdict)
            for queue, verdict in problems.values()
            if not queue.frozen and (queue.held or not queue.deleting)
        ]
        pods = defaultdict(list)
        for pod in self._store.pods:
            home = homes.get(Key(pod.key.namespace, pod.queue))
            if home is not None:
                pods[home].append(pod)
        for key, queues in groups.items():
            self._loop(key).assign(Assignment(queues=tuple(queues), workers=tuple(workers[key]), pods=tuple(pods[key])))
        await self._end([key for key in self._running if key not in groups])
        writes += self._missing_workers(homes)
        writes += self._without_sidecar()
        await self._reporter.together(writes)

    async def _group(self) -> tuple[dict[DatabaseKey, list[Queue]], dict[Key, tuple[Queue, Verdict]]]:
        """Sort the queues by their database; those without one come with what is wrong."""
        groups: dict[DatabaseKey, list[Queue]] = defaultdict(list)
        problems: dict[Key, tuple[Queue, Verdict]] = {}
        queues = [(queue, _secret(queue)) for queue in self._store.queues]
        await self._addresses.refresh({secret for _, secret in queues})
        for queue, secret in queues:
            connection = queue.spec.connection
            found = self._addresses.find(secret, leftover=queue.deleting is not None)
            if isinstance(found, str):
                groups[DatabaseKey(found, connection.schema_)].append(queue)
            else:
                problems[queue.key] = queue, found
        return groups, problems

    async def _homeless(self, worker: Worker, problems: dict[Key, tuple[Queue, Verdict]]) -> None:
        """Answer for a worker whose queue has no database."""
        key = worker.queue_key
        if key is None:
            verdict = verdicts.stalled("InvalidSpec", worker.problem)
        elif key in problems:
            verdict = problems[key][1]
        else:
            verdict = verdicts.stalled("QueueNotFound", f"There is no PgqrsQueue {key}; create it, or delete this.")
            if worker.deleting is not None:
                # Nobody can say any more which rows were meant.
                await self._reporter.let_go(worker)
                return
        await tell_or_let_go(self._reporter, worker, verdict)

    def _missing_workers(self, homes: dict[Key, DatabaseKey]) -> list[Awaitable[None]]:
        """Make a `PgqrsWorker` for each injected pod that has none and goes on."""
        mirrored = {worker.pod_uid for worker in self._store.workers}
        names = {worker.key for worker in self._store.workers}
        return [
            self._reporter.create_worker(pod)
            for pod in self._store.pods
            if pod.injected
            and not (pod.ending or pod.final)
            and pod.uid not in mirrored
            and pod.key not in names
            and Key(pod.key.namespace, pod.queue) in homes
        ]

    def _without_sidecar(self) -> list[Awaitable[None]]:
        """Report each labelled pod that no injector met, once."""
        there = {pod.uid: pod for pod in self._store.pods if not (pod.injected or pod.ending or pod.final)}
        fresh = there.keys() - self._reported
        self._reported = set(there)
        return [self._reporter.report_without_sidecar(there[uid]) for uid in fresh]

    def _loop(self, key: DatabaseKey) -> DatabaseLoop:
        running = self._running.get(key)
        if running is None:
            loop = DatabaseLoop.open(
                key.dsn,
                key.schema,
                kubernetes=self._kubernetes,
                store=self._store,
                reporter=self._reporter,
                settings=self._settings,
                metrics=self._metrics,
            )
            running = _Running(loop, asyncio.create_task(loop.run(), name="database loop"))
            self._running[key] = running
        elif running.task.done():
            message = "A database loop has ended."
            raise RuntimeError(message) from running.task.exception()
        return running.loop

    async def _end(self, keys: list[DatabaseKey]) -> None:
        tasks = [self._running.pop(key).task for key in keys]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_SECONDS)
