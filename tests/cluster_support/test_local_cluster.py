"""The cluster from parts, for real: what pods can do in it, and that nothing stays behind, whatever was killed."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.cluster_support.traces import traces
from tests.support.cluster.commands import wait_for
from tests.support.cluster.errors import ClusterError
from tests.support.cluster.local import box
from tests.support.cluster.local.cluster import LocalCluster, clusters_root
from tests.support.cluster.local.layout import SLOTS
from tests.support.cluster.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NAME = "selftest"
_PYTHON = "docker.io/library/python:3.11-slim-bookworm"
_POSTGRES = "docker.io/library/postgres:15-bookworm"
#: Prints the name of the pod that answers, a line for each try.
_ASK = """
import sys, urllib.request
for _ in range(int(sys.argv[2])):
    print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().strip())
"""
_OBJECTS = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule,
          labelSelector: {{matchLabels: {{app: web}}}}}}
      containers:
      - name: web
        image: {_PYTHON}
        imagePullPolicy: IfNotPresent
        command: [python3, -m, http.server, --directory=/etc, "8000"]
        readinessProbe: {{httpGet: {{port: 8000, path: /hostname}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8000}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: crasher}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {_PYTHON}
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "sleep 1000 & echo $! >/tmp/child; wait $!; exit 3"]
    readinessProbe: {{exec: {{command: [test, -f, /tmp/child]}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: postgres}}
spec:
  containers:
  - name: postgres
    image: {_POSTGRES}
    imagePullPolicy: IfNotPresent
    args: [postgres, -c, fsync=off]
    env: [{{name: POSTGRES_PASSWORD, value: canary}}, {{name: POSTGRES_USER, value: app}}]
    readinessProbe: {{exec: {{command: [pg_isready, --host=127.0.0.1]}}, periodSeconds: 1}}
"""


def _cluster() -> LocalCluster:
    return LocalCluster(_NAME, Progress(quiet=True))


def _interfaces() -> set[str]:
    links = {f"pgqrs-test{slot}" for slot in range(SLOTS)}
    return links & set(os.listdir("/sys/class/net"))  # noqa: PTH208 - names are all that is asked for


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two nodes with the objects above, all of them Ready."""
    made = _cluster()
    made.up(nodes=2)
    try:
        for image in (_PYTHON, _POSTGRES):
            made.load_image(image)
        made.kubectl("apply", "-f", "-", stdin=_OBJECTS)
        made.kubectl("wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s", timeout=70)
        yield made
    finally:
        made.down()


@pytest.fixture
def webs(cluster: LocalCluster) -> dict[str, str]:
    """The addresses of the two web pods by name."""
    path = '{range .items[*]}{.metadata.name} {.status.podIP}{"\\n"}{end}'
    listing = cluster.kubectl("get", "pods", "-l=app=web", f"-o=jsonpath={path}")
    return dict(line.split() for line in listing.splitlines())


def _ask(cluster: LocalCluster, pod: str, url: str, times: int = 1) -> list[str]:
    return cluster.kubectl("exec", pod, "--", "python3", "-c", _ASK, url, str(times)).split()


def _answers(cluster: LocalCluster, pod: str, url: str) -> bool:
    try:
        return bool(_ask(cluster, pod, url))
    except ClusterError:
        return False


@pytest.mark.timeout(180)
def test_pods_of_two_nodes_reach_each_other(cluster: LocalCluster, webs: dict[str, str]) -> None:
    nodes = cluster.kubectl("get", "pods", "-l=app=web", "-o=jsonpath={.items[*].spec.nodeName}").split()
    assert sorted(nodes) == ["node-1", "node-2"]
    for pod in webs:
        for name, address in webs.items():
            assert _ask(cluster, pod, f"http://{address}:8000/hostname") == [name]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("host", ["web", "web.default.svc.cluster.local"])
def test_a_service_is_reached_by_name_also_where_the_pod_itself_answers(
    host: str, cluster: LocalCluster, webs: dict[str, str]
) -> None:
    url = f"http://{host}/hostname"
    for pod in webs:
        # Pods that have just become Ready are known to the proxies of both nodes a moment later.
        wait_for(partial(_answers, cluster, pod, url), what=f"{host} to answer {pod}", timeout=30)
        # Either answers half of the times: that one of them stays silent 20 times is a one in a million.
        assert set(_ask(cluster, pod, url, 20)) == set(webs)


@pytest.mark.timeout(180)
def test_the_api_server_and_this_machine_reach_services(cluster: LocalCluster, webs: dict[str, str]) -> None:
    answer = cluster.kubectl("get", "--raw", "/api/v1/namespaces/default/services/web:80/proxy/hostname")
    assert answer.strip() in webs
    address = cluster.kubectl("get", "service", "web", "-o=jsonpath={.spec.clusterIP}")
    with urllib.request.urlopen(f"http://{address}/hostname", timeout=5) as response:
        assert response.read().decode().strip() in webs


@pytest.mark.timeout(180)
def test_pods_reach_a_server_of_this_machine(cluster: LocalCluster, webs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "hostname").write_text("this machine")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((cluster.host_address, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://{cluster.host_address}:{server.server_port}/hostname"
            assert _ask(cluster, next(iter(webs)), url) == ["this", "machine"]
        finally:
            server.shutdown()


@pytest.mark.timeout(180)
def test_logs_and_port_forward(cluster: LocalCluster, webs: dict[str, str]) -> None:
    for pod in webs:
        with (
            cluster.port_forward(f"pod/{pod}", 8000, namespace="default") as port,
            urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname?marked", timeout=5) as response,
        ):
            assert response.read().decode().strip() == pod
        assert "/hostname?marked" in cluster.kubectl("logs", pod)
    with (
        pytest.raises(ClusterError, match="No way to port 1 of pod/absent"),
        cluster.port_forward("pod/absent", 1, namespace="default"),
    ):
        pass


@pytest.mark.timeout(180)
def test_a_container_whose_process_is_killed_starts_again(cluster: LocalCluster) -> None:
    def field(path: str) -> str:
        return cluster.kubectl("get", "pod", "crasher", f"-o=jsonpath={{.status.containerStatuses[0].{path}}}")

    before = int(field("restartCount"))
    cluster.kubectl("exec", "crasher", "--", "sh", "-c", "kill -9 $(cat /tmp/child)")
    wait_for(lambda: int(field("restartCount")) == before + 1, what="the container to start again", timeout=30)
    assert field("lastState.terminated.exitCode") == "3"


@pytest.mark.timeout(180)
def test_the_stand_in_for_postgresql(cluster: LocalCluster) -> None:
    query = "SELECT current_user, current_database(), current_setting('fsync')"
    psql = ["env", "PGPASSWORD=canary", "psql", "--host=127.0.0.1", "--username=app", "-At", "app", "-c", query]
    assert cluster.kubectl("exec", "postgres", "--", *psql).strip() == "app|app|off"
    owner = cluster.kubectl("exec", "postgres", "--", "stat", "-c", "%u", "/proc/1", "/var/lib/postgresql/data")
    assert owner.split() == ["999", "999"]
    with pytest.raises(ClusterError, match="password authentication failed"):
        cluster.kubectl("exec", "postgres", "--", *[word.replace("canary", "wrong") for word in psql])


@pytest.mark.timeout(180)
def test_a_node_that_falls_silent_and_comes_back(cluster: LocalCluster) -> None:
    def ready() -> str:
        path = '{.status.conditions[?(@.type=="Ready")].status}'
        return cluster.kubectl("get", "node", "node-2", f"-o=jsonpath={path}")

    assert ready() == "True"
    cluster.signal_component("kubelet-node-2", signal.SIGSTOP)
    try:
        wait_for(lambda: ready() == "Unknown", what="the node to be unreachable", timeout=60, interval=0.5)
    finally:
        cluster.signal_component("kubelet-node-2", signal.SIGCONT)
    wait_for(lambda: ready() == "True", what="the node to be Ready again", timeout=60, interval=0.5)
    # The pods of the silent node were unready meanwhile.
    cluster.kubectl("wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s", timeout=70)


@pytest.mark.timeout(180)
def test_components_that_are_killed_start_again(cluster: LocalCluster, webs: dict[str, str]) -> None:
    def answers(pod: str) -> bool:
        try:
            return _ask(cluster, pod, "http://web/hostname")[0] in webs
        except ClusterError:
            return False

    for component in ("etcd", "kube-apiserver", "coredns", "containerd-node-1", "kubelet-node-1"):
        cluster.signal_component(component, signal.SIGKILL)
    wait_for(lambda: not cluster.status().healthy, what="the death to be noticed", timeout=10, interval=0.02)
    wait_for(lambda: cluster.status().healthy, what="all components to be back", timeout=60)
    containers = cluster.kubectl(
        "get", "pods", "-l=app=web", "-o=jsonpath={.items[*].status.containerStatuses[0].restartCount}"
    )
    assert containers.split() == ["0", "0"], "no pod has noticed"
    for pod in webs:
        wait_for(partial(answers, pod), what=f"the kubelet to know {pod} again", timeout=30)
    with pytest.raises(ClusterError, match="no running component 'nonsense'"):
        cluster.signal_component("nonsense", signal.SIGKILL)


@pytest.mark.timeout(180)
def test_up_keeps_a_healthy_cluster_and_an_image_is_imported_once(cluster: LocalCluster) -> None:
    before = box.find(clusters_root() / _NAME)
    cluster.up(nodes=1)
    assert box.find(clusters_root() / _NAME) == before
    assert cluster.status().healthy
    stamps = [path.stat().st_mtime_ns for path in (clusters_root() / _NAME).glob("node-*/images/*")]
    cluster.load_image(_PYTHON)
    assert [path.stat().st_mtime_ns for path in (clusters_root() / _NAME).glob("node-*/images/*")] == stamps


# What comes now has a cluster of its own, under another name: it is broken on purpose.
_DOOMED = "selftest-doomed"


@pytest.fixture
def doomed() -> Iterator[LocalCluster]:
    """A cluster that may be broken; it does not exist yet."""
    made = LocalCluster(_DOOMED, Progress(quiet=True))
    made.down()
    yield made
    made.down()


@pytest.mark.timeout(180)
def test_down_leaves_nothing(doomed: LocalCluster) -> None:
    before = _interfaces()
    doomed.up()
    (interface,) = _interfaces() - before
    doomed.load_image(_PYTHON)
    command = ["--image", _PYTHON, "--image-pull-policy=IfNotPresent", "--", "sleep", "1000"]
    doomed.kubectl("run", "sleeper", *command)
    doomed.kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=60s", timeout=70)
    assert {trace.split()[0] for trace in traces(_DOOMED, interface)} == {
        "process", "control", "interface", "folder",
    }, "what is looked for is there while it runs"  # fmt: skip
    doomed.down()
    assert traces(_DOOMED, interface) == []
    doomed.down()
    assert not doomed.status().healthy


@pytest.mark.timeout(180)
def test_a_box_that_was_killed_is_seen_replaced_and_removed(doomed: LocalCluster) -> None:
    doomed.up()
    root = clusters_root() / _DOOMED
    _kill_box(root)
    status = doomed.status()
    assert not status.healthy
    assert "its box does not run" in status.details
    doomed.up()
    assert doomed.status().healthy
    interface = next(iter(_interfaces_of(doomed)))
    _kill_box(root)
    doomed.down()
    assert traces(_DOOMED, interface) == []


def _kill_box(root: Path) -> None:
    pid = box.find(root)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: box.find(root) is None, what="the box to end", timeout=20)


def _interfaces_of(cluster: LocalCluster) -> list[str]:
    address = cluster.host_address
    listing = subprocess.run(["ip", "-o", "-4", "address"], check=True, capture_output=True, text=True).stdout
    return [line.split()[1] for line in listing.splitlines() if f" {address}/" in line]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "reached",
    [
        pytest.param(lambda root: (root / "box.json").exists(), id="files"),
        pytest.param(lambda root: box.find(root) is not None, id="box"),
        pytest.param(lambda root: '"pid"' in (root / "supervisor.json").read_text(), id="components"),
    ],
)
def test_an_up_that_was_killed_halfway_leaves_nothing_after_down(
    reached: Callable[[Path], bool], doomed: LocalCluster
) -> None:
    root = clusters_root() / _DOOMED
    before = _interfaces()
    argv = [sys.executable, "-m", "tests.support.cluster", "up", "--name", _DOOMED]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:

        def halfway() -> bool:
            assert process.poll() is None, "it ended before it could be killed"
            try:
                return reached(root)
            except FileNotFoundError:
                return False

        wait_for(halfway, what="the moment to kill", timeout=60, interval=0.002)
        process.kill()
    interfaces = _interfaces() - before
    assert not doomed.status().healthy
    doomed.down()
    assert traces(_DOOMED, "none") == []
    assert not _interfaces() & interfaces
