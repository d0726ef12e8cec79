"""The measurements, in the order in which they build on each other."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from pgqrs_operator.names import API_VERSION, QUEUES, WORKERS
from tests.bench_operator.kwok import LABEL
from tests.bench_operator.scene import NAMESPACE, Scene, all_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench_operator.results import Results

#: Rows of processes that nobody heartbeats must not count as silent during the run.
_SPEC = {"heartbeatTimeout": "24h"}
_CONVERGE_SECONDS = 900.0
_SHORT_SECONDS = 120.0
_SETTLE_SECONDS = 45.0
_CHANGES = 5
_PODS_QUEUE = "pods"
_MESSAGES_PER_POD = 2
_WORKERS_SQL = """
INSERT INTO pgqrs_workers (name, queue_id, status)
SELECT 'host-' || n || ':1', q.id, 'ready'
FROM generate_series(0, $1::int - 1) n JOIN pgqrs_queues q ON q.queue_name = 'queue-' || n % $2::int
"""
_PODS_SQL = """
WITH pod AS (SELECT name, uid, n FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS given (name, uid, n)),
queue AS (SELECT id FROM pgqrs_queues WHERE queue_name = $4),
worker AS (
    INSERT INTO pgqrs_workers (name, queue_id, status, pod_uid, pod_name, pod_namespace, container)
    SELECT pod.name || '.' || $3::text || ':1', queue.id, 'ready', pod.uid, pod.name, $3::text, 'app' FROM pod, queue
    RETURNING id
)
INSERT INTO pgqrs_messages (queue_id, payload, vt, read_ct, consumer_worker_id)
SELECT queue.id, '{}', now() + interval '1 hour', 1, worker.id
FROM worker, queue, generate_series(1, $5::int)
"""
_HELD = "SELECT count(*) FROM pgqrs_messages WHERE consumer_worker_id IS NOT NULL AND archived_at IS NULL"


class Measurements:
    """One run."""

    def __init__(self, scene: Scene, results: Results) -> None:
        self._scene = scene
        self._results = results
        self._limits: dict[int, int] = {}

    async def all(self, idle_seconds: float) -> None:
        """Measure everything but the pods; what fails is said, and the next one is measured all the same."""
        await self._try("queues", self._queues)
        await self._try("workers", self._workers)
        await self._try("idle", lambda: self._idle(idle_seconds))
        await self._try("changes", self._changes)
        await self._try("drifts", self._drifts)
        await self._try("restart", self._restart)

    async def pods(self) -> None:
        """Measure the deletion of many pods; nodes for them are there."""
        await self._try("pods", self._pods)

    async def memory(self) -> None:
        """Note the most memory that a process that runs now has used, unless an earlier one used more."""
        peaks = [self._scene.look(pod)["peak"] for pod in self._scene.operator_pods()]
        self._results.memory_peak = max(*peaks, self._results.memory_peak or 0.0)

    async def _try(self, name: str, measure: Callable[[], Awaitable[None]]) -> None:
        try:
            await measure()
        except TimeoutError as error:
            print(f"{time.strftime('%H:%M:%S')} {name}: not measured: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{time.strftime('%H:%M:%S')} {name}: {self._results}", file=sys.stderr, flush=True)

    async def _queues(self) -> None:
        began = time.monotonic()
        await all_of(
            self._scene.kubernetes.create(QUEUES, NAMESPACE, _body("PgqrsQueue", f"queue-{number}", _SPEC))
            for number in range(self._results.queues)
        )
        await self._scene.until(
            "every queue is Ready", lambda: self._ready(QUEUES, self._results.queues), within=_CONVERGE_SECONDS
        )
        self._results.queues_ready = time.monotonic() - began

    async def _workers(self) -> None:
        count, queues = self._results.workers, self._results.queues
        await self._scene.database.execute(_WORKERS_SQL, count, queues)
        await self._scene.database.execute("ANALYZE")
        began = time.monotonic()
        await all_of(
            self._scene.kubernetes.create(
                WORKERS,
                NAMESPACE,
                _body(
                    "PgqrsWorker",
                    f"worker-{number}",
                    {"queueRef": {"name": f"queue-{number % queues}"}, "hostname": f"host-{number}", "port": 1},
                ),
            )
            for number in range(count)
        )
        await self._scene.until("every worker is Ready", lambda: self._ready(WORKERS, count), within=_CONVERGE_SECONDS)
        self._results.workers_ready = time.monotonic() - began

    async def _ready(self, plural: str, count: int) -> bool:
        """Whether so many are Ready. It looks no further than to the first page with one that is not."""
        ready = 0
        async for page in self._scene.kubernetes.resource_pages(plural, "", NAMESPACE):
            here = sum(
                1
                for item in page.items
                for condition in item.get("status", {}).get("conditions", ())
                if condition["type"] == "Ready" and condition["status"] == "True"
            )
            ready += here
            if here < len(page.items):
                return False
        return ready >= count

    async def _idle(self, seconds: float) -> None:
        await asyncio.sleep(_SETTLE_SECONDS)
        pods, leader = self._scene.operator_pods(), self._scene.leader()
        before = {pod: self._scene.look(pod) for pod in pods}
        await asyncio.sleep(seconds)
        after = {pod: self._scene.look(pod) for pod in pods}
        used = {
            pod: (after[pod]["cpu"] - seen["cpu"]) / (after[pod]["at"] - seen["at"]) for pod, seen in before.items()
        }
        self._results.idle = used[leader]
        self._results.idle_follower = max(share for pod, share in used.items() if pod != leader)
        self._results.memory_idle = after[leader]["rss"]
        await self.memory()

    async def _change(self, number: int) -> float:
        """Change one queue, and give how long it takes until its row shows that."""
        limit = self._limits[number] = self._limits.get(number, 5) + 1
        patch = json.dumps({"spec": {"maxReads": limit}})
        self._scene.kubectl("patch", "pgqrsqueue", f"queue-{number}", "--type=merge", "-p", patch)
        return await self._scene.until("the row follows", lambda: self._follows(number, limit), within=_SHORT_SECONDS)

    async def _follows(self, number: int, limit: int) -> bool:
        sql = "SELECT count(*) FROM pgqrs_queues WHERE queue_name = $1 AND read_limit = $2"
        return await self._scene.number(sql, f"queue-{number}", limit) == 1

    async def _changes(self) -> None:
        for number in range(_CHANGES):
            self._results.changes.append(await self._change(number))

    async def _drifts(self) -> None:
        sql = "UPDATE pgqrs_queues SET read_limit = 77 WHERE queue_name = ANY ($1::text[])"
        await self._scene.database.execute(sql, [f"queue-{100 + number}" for number in range(self._results.drifts)])
        self._results.drifts_repaired = await self._scene.until(
            "all drifts are repaired", self._no_drift, within=_SHORT_SECONDS
        )

    async def _no_drift(self) -> bool:
        return await self._scene.number("SELECT count(*) FROM pgqrs_queues WHERE read_limit = 77") == 0

    async def _restart(self) -> None:
        await self.memory()
        await asyncio.sleep(_SETTLE_SECONDS)
        before, leader = await self._written(), self._scene.leader()
        began = time.monotonic()
        self._scene.end_operator(leader)
        self._results.change_during_restart = await self._change(_CHANGES)

        async def all_is_told() -> bool:
            return await self._told(_CHANGES)

        # The one that took over has read and compared everything when it says of one what it made of it.
        await self._scene.until("the next leader has gone round", all_is_told, within=_SHORT_SECONDS)
        self._results.restart = time.monotonic() - began
        await asyncio.sleep(_SETTLE_SECONDS)
        after = await self._written()
        # The one that was changed here: its specification and status, and its row.
        self._results.restart_writes = sum(after.get(key) != version for key, version in before.items()) - 2
        await self.memory()

    async def _told(self, number: int) -> bool:
        """Whether the status of a queue is of its newest generation."""
        found = json.loads(self._scene.kubectl("get", "pgqrsqueue", f"queue-{number}", "-o", "json"))
        return bool(found["status"].get("observedGeneration") == found["metadata"]["generation"])

    async def _written(self) -> dict[tuple[str, str], str]:
        """The versions of all objects and rows: what was written since has another one."""
        versions: dict[tuple[str, str], str] = {}
        for plural in (QUEUES, WORKERS):
            for item in (await self._scene.kubernetes.list_resources(plural, "", NAMESPACE)).items:
                versions[plural, item["metadata"]["name"]] = item["metadata"]["resourceVersion"]
        for name in ("pgqrs_queues", "pgqrs_workers"):
            for row in await self._scene.database.fetch(f"SELECT id, xmin::text FROM {name}"):
                versions[name, str(row["id"])] = row["xmin"]
        return versions

    async def _pods(self) -> None:
        self._scene.kubectl("apply", "-f", "-", stdin=json.dumps(_body("PgqrsQueue", _PODS_QUEUE, _SPEC)))
        self._scene.kubectl("wait", f"pgqrsqueue/{_PODS_QUEUE}", "--for=condition=Ready", "--timeout=60s")
        self._scene.kubectl("apply", "-f", "-", stdin=json.dumps(_deployment(self._results.pods)))
        await self._scene.until("every pod runs", self._all_run, within=_CONVERGE_SECONDS)
        pods = await self._list_pods()
        names = [pod["metadata"]["name"] for pod in pods]
        uids = [pod["metadata"]["uid"] for pod in pods]
        await self._scene.database.execute(_PODS_SQL, names, uids, NAMESPACE, _PODS_QUEUE, _MESSAGES_PER_POD)
        await self._scene.until("the operator knows every pod", self._all_known, within=_SHORT_SECONDS)
        # Nothing brings them back: a ReplicaSet would.
        self._scene.kubectl("delete", "deployment", _PODS_QUEUE, "--cascade=orphan")
        self._scene.kubectl("delete", "replicasets", "-l", f"app={_PODS_QUEUE}", "--cascade=orphan")
        began = time.monotonic()
        words = ("delete", "pods", "-l", f"app={_PODS_QUEUE}", "--wait=false")
        deleting = asyncio.create_task(asyncio.to_thread(self._scene.kubectl, *words, timeout=_SHORT_SECONDS))
        await self._scene.until("the pods are gone", self._none_left, within=_SHORT_SECONDS)
        await deleting
        gone = time.monotonic()
        self._results.pods_gone = gone - began
        await self._scene.until("nothing is held", self._nothing_held, within=_SHORT_SECONDS)
        self._results.pods_released = time.monotonic() - gone
        await self.memory()

    async def _list_pods(self) -> list[dict[str, Any]]:
        return [pod async for page in self._scene.kubernetes.labelled_pod_pages(NAMESPACE) for pod in page.items]

    async def _all_run(self) -> bool:
        running = [pod for pod in await self._list_pods() if pod.get("status", {}).get("phase") == "Running"]
        return len(running) == self._results.pods

    async def _all_known(self) -> bool:
        found = await self._scene.kubernetes.list_resources(WORKERS, "", NAMESPACE)
        return sum("ownerReferences" in item["metadata"] for item in found.items) == self._results.pods

    async def _none_left(self) -> bool:
        async for page in self._scene.kubernetes.labelled_pod_pages(NAMESPACE):
            return not page.items
        return True

    async def _nothing_held(self) -> bool:
        return await self._scene.number(_HELD) == 0


def _body(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _deployment(pods: int) -> dict[str, Any]:
    labels = {"app": _PODS_QUEUE}
    template = {
        "metadata": {"labels": {**labels, "pgqrs.io/queue": _PODS_QUEUE}},
        "spec": {
            "nodeSelector": {LABEL: "true"},
            "tolerations": [{"key": LABEL, "operator": "Exists"}],
            "containers": [{"name": "app", "image": "example.invalid/app:1"}],
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": _PODS_QUEUE, "labels": labels},
        "spec": {"replicas": pods, "selector": {"matchLabels": labels}, "template": template},
    }
