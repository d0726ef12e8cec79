"""Sidecars of real pods: a Deployment on the test cluster, whose app container does nothing."""

from __future__ import annotations

import json
import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.bench_sidecar.results import Pods
from tests.support.cluster import choose
from tests.support.cluster.progress import Progress
from tests.support.installation import EXAMPLE_IMAGE, VALUES, Installation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CLUSTER = "pgqrs-bench"
_NAMESPACE = "bench"
#: After the last pod is ready, before anything is measured.
_SETTLE_SECONDS = 20.0
_START_SECONDS = 900.0
#: Run in the sidecar's container, whose first process it is.
_LOOK = """
import json, time
stat = open("/proc/1/stat").read().rpartition(")")[2].split()
status = dict(line.split(":", 1) for line in open("/proc/1/status") if ":" in line)
up = float(open("/proc/uptime").read().split()[0])
print(json.dumps({
    "ticks": int(stat[11]) + int(stat[12]), "at": time.monotonic(), "rss": int(status["VmRSS"].split()[0]) * 1024,
    "started": time.time() - up + int(stat[19]) / 100,
}))
"""
_TICKS_PER_SECOND = 100


class Bench:
    """A cluster with the chart, for one run."""

    def __init__(self, installation: Installation, seconds: float) -> None:
        self._installation = installation
        self._cluster = installation.cluster
        self._seconds = seconds

    def measure(self, count: int) -> Pods:
        """Have so many pods, wait until they rest, and look at their sidecars.

        Raises:
            ClusterError: they did not start in time.
        """
        self._kubectl("scale", "deployment/bench", f"--replicas={count}")
        self._kubectl("rollout", "status", "deployment/bench", f"--timeout={_START_SECONDS:.0f}s")
        time.sleep(_SETTLE_SECONDS)
        names = [pod["metadata"]["name"] for pod in self._pods()]
        before = {name: self._look(name) for name in names}
        time.sleep(self._seconds)
        after = {name: self._look(name) for name in names}
        used = [_cores(before[name], after[name]) for name in names]
        memory = [after[name]["rss"] / 1e6 for name in names]
        ready = [self._registered_at(name) - after[name]["started"] for name in names]
        return Pods(
            count=count,
            rss=statistics.median(memory),
            rss_most=max(memory),
            millicores=statistics.median(used) * 1000,
            millicores_most=max(used) * 1000,
            ready=statistics.median(ready),
            ready_most=max(ready),
            connections=int(
                self._installation.query(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgqrs sidecar%'"
                )
            ),
        )

    def _kubectl(self, *words: str, stdin: str | None = None) -> str:
        return self._cluster.kubectl("-n", _NAMESPACE, *words, stdin=stdin, timeout=_START_SECONDS + 10)

    def _pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._kubectl("get", "pods", "-o", "json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def _look(self, pod: str) -> dict[str, float]:
        found = self._kubectl("exec", "-i", pod, "-c", "pgqrs-sidecar", "--", "python3", "-", stdin=_LOOK)
        seen: dict[str, float] = json.loads(found)
        return seen

    def _registered_at(self, pod: str) -> float:
        """When the sidecar had its row, by the clock that the containers share; seconds since 1970."""
        script = "SELECT extract(epoch FROM min(started_at)) FROM pgqrs_workers WHERE pod_name = '{}'"
        return float(self._installation.query(script.format(pod)))

    def prepare(self) -> None:
        """Declare the queue and a Deployment without pods yet."""
        dsn = self._installation.dsn("pgqrs", password=self._installation.password())
        metadata = {"name": "bench"}
        labels = {"app": "bench"}
        app = {"name": "app", "image": EXAMPLE_IMAGE, "command": ["sleep", "infinity"]}
        template = {
            "metadata": {"labels": {**labels, "pgqrs.io/queue": "bench"}},
            "spec": {"containers": [app], "terminationGracePeriodSeconds": 30},
        }
        bodies: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pgqrs"}, "stringData": {"dsn": dsn}},
            {"apiVersion": "pgqrs.io/v1alpha1", "kind": "PgqrsQueue", "metadata": metadata, "spec": {}},
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": metadata,
                "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
            },
        ]
        for body in bodies:
            self._kubectl("apply", "-f", "-", stdin=json.dumps(body))
        self._kubectl("wait", "pgqrsqueue/bench", "--for=condition=Ready", "--timeout=60s")


def _cores(before: dict[str, float], after: dict[str, float]) -> float:
    """The share of a core that a process used between two looks at it."""
    return (after["ticks"] - before["ticks"]) / _TICKS_PER_SECOND / (after["at"] - before["at"])


def measure(counts: Sequence[int], seconds: float) -> Iterator[Pods]:
    """Measure Deployments of these sizes, the smallest first; each for so many seconds.

    Raises:
        ClusterError: the cluster, the chart or the pods did not come up.
    """
    with _installed() as installation:
        bench = Bench(installation, seconds)
        bench.prepare()
        for count in sorted(counts):
            yield bench.measure(count)


@contextmanager
def _installed() -> Iterator[Installation]:
    cluster = choose(_CLUSTER)
    cluster.up()
    try:
        installation = Installation(cluster, Progress().say)
        installation.bring_images()
        installation.install(VALUES)
        yield installation
    finally:
        cluster.down()
