"""The cluster of a run: the chart with its two operators, one namespace, one database, and ways to all of them."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.kube_config import load_kube_config

from pgqrs_operator.api import Kubernetes
from tests.support.cluster import choose
from tests.support.cluster.progress import Progress
from tests.support.installation import RELEASE, SYSTEM, VALUES, Installation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
    from pathlib import Path

    from tests.support.cluster.provider import Cluster

NAMESPACE = "bench"
_CLUSTER = "pgqrs-bench"
_DATABASE = f"{RELEASE}-development-postgres"
#: Calls to the API server that are on their way at once.
_CALLS = 16
_LOOK_SECONDS = 0.05
#: So many times as long as a look took nobody looks again.
_LOOK_SHARE = 5
#: The aim for memory is measured, not enforced.
_MEMORY_LIMIT = "1Gi"
#: Run in the operator's container, whose first process it is.
_LOOK = """
import json, time
stat = open("/proc/1/stat").read().rpartition(")")[2].split()
status = dict(line.split(":", 1) for line in open("/proc/1/status") if ":" in line)
print(json.dumps({
    "cpu": (int(stat[11]) + int(stat[12])) / 100, "at": time.monotonic(),
    "rss": int(status["VmRSS"].split()[0]) * 1024 / 1e6, "peak": int(status["VmHWM"].split()[0]) * 1024 / 1e6,
}))
"""


class Scene:
    """What a run works with."""

    def __init__(self, installation: Installation, kubernetes: Kubernetes, database: asyncpg.Pool) -> None:
        self.installation = installation
        self.kubernetes = kubernetes
        self.database = database

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl in the namespace of the run."""
        return self.installation.cluster.kubectl("-n", NAMESPACE, *words, stdin=stdin, timeout=timeout)

    def operator_pods(self) -> list[str]:
        """Name the operators' pods."""
        label = "app.kubernetes.io/component=operator"
        found = self.installation.cluster.kubectl("-n", SYSTEM, "get", "pods", "-l", label, "-o", "json")
        return [
            pod["metadata"]["name"] for pod in json.loads(found)["items"] if "deletionTimestamp" not in pod["metadata"]
        ]

    def leader(self) -> str:
        """Name the pod of the operator that acts; nothing while none does."""
        path = "-o=jsonpath={.spec.holderIdentity}"
        found = self.installation.cluster.kubectl("-n", SYSTEM, "get", "lease", f"{RELEASE}-operator", path)
        return found.partition("_")[0]

    def look(self, pod: str) -> dict[str, float]:
        """Look at an operator's process: CPU seconds so far, at which moment, resident and peak memory in MB."""
        words = ("-n", SYSTEM, "exec", "-i", pod, "--", "python3", "-")
        seen: dict[str, float] = json.loads(self.installation.cluster.kubectl(*words, stdin=_LOOK))
        return seen

    def end_operator(self, pod: str) -> None:
        """Tell an operator's process to end, which the kubelet starts anew in the same pod."""
        words = ("-n", SYSTEM, "exec", pod, "--", "python3", "-c", "import os; os.kill(1, 15)")
        self.installation.cluster.kubectl(*words)

    async def number(self, sql: str, *values: object) -> int:
        """Give what a query counts."""
        return int(await self.database.fetchval(sql, *values))

    async def until(self, what: str, condition: Callable[[], Coroutine[Any, Any, bool]], *, within: float) -> float:
        """Look until something holds, and give how long that took, in seconds.

        Raises:
            TimeoutError: it did not.
        """
        began = time.monotonic()
        while True:
            looked = time.monotonic()
            if await condition():
                return time.monotonic() - began
            if time.monotonic() - began > within:
                message = f"not within {within:g} s: {what}"
                raise TimeoutError(message)
            # A look at ten thousand objects must not be most of what the cluster does meanwhile.
            await asyncio.sleep(max(_LOOK_SECONDS, _LOOK_SHARE * (time.monotonic() - looked)))


async def all_of(calls: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Make calls, some of them at the same time."""
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call

    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLS):
            group.create_task(work())


@asynccontextmanager
async def scene(log: Path) -> AsyncIterator[Scene]:
    """Have a cluster with the chart until the block ends.

    Raises:
        ClusterError: it did not come up.
    """
    with _cluster() as cluster:
        installation = Installation(cluster, Progress().say)
        installation.bring_images()
        operator = {"resources": {"limits": {"memory": _MEMORY_LIMIT}}}
        installation.install({**VALUES, "operator": operator})
        cluster.kubectl("create", "namespace", NAMESPACE)
        password = installation.password()
        dsn = installation.dsn("pgqrs", password=password)
        cluster.kubectl("-n", NAMESPACE, "create", "secret", "generic", "pgqrs", f"--from-literal=dsn={dsn}")
        configuration = Configuration()
        await load_kube_config(  # type: ignore[no-untyped-call]  # not annotated upstream
            config_file=str(cluster.kubeconfig), client_configuration=configuration
        )
        try:
            with cluster.port_forward(f"deploy/{_DATABASE}", 5432, namespace=SYSTEM) as port:
                near = f"postgresql://pgqrs:{password}@127.0.0.1:{port}/pgqrs"
                async with (
                    ApiClient(configuration=configuration) as client,
                    asyncpg.create_pool(near, min_size=1, max_size=4) as database,
                ):
                    yield Scene(installation, Kubernetes(client), database)
        finally:
            await asyncio.to_thread(lambda: log.write_text(installation.diagnosis()))


@contextmanager
def _cluster() -> Iterator[Cluster]:
    cluster = choose(_CLUSTER)
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()
