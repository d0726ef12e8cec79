"""A node that falls silent, and one that is gone: what its pods hold is free when that is certain, and not before.

A silent node is one whose kubelet and whose pods' sidecars stand still. Its apps go on: nobody could tell.
"""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.cluster.nodes import KUBELET, SIDECAR
from tests.cluster.shop import eventually
from tests.cluster.workloads import container, pod
from tests.support.cluster.errors import ClusterError
from tests.support.installation import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.ledgered import LedgeredShop
    from tests.cluster.nodes import Nodes

pytestmark = pytest.mark.timeout(300)

_MESSAGES = 4
#: Longer than it takes until the node counts as unreachable, so that this alone frees nothing; in seconds.
_HEARTBEAT = 30
#: From one heartbeat until the worker is stopped for its silence, and others have had its messages, with time to spare.
_SILENCE = 45.0
#: As long as it takes to delete a node and a pod, with time to spare.
_ABSENCE = 10.0
#: Nobody gets a message because a lease ran out; of the one whose node is gone, not because of a heartbeat either.
_QUEUES = {
    "silent": {"leaseDuration": "10m", "heartbeatTimeout": f"{_HEARTBEAT}s"},
    "gone": {"leaseDuration": "10m", "heartbeatTimeout": "10m"},
}
#: Handlers of the first delivery outlast the silence, others' take no time.
_PAYLOAD = {"seconds": 300, "later": 0.5}
_ENDS = """
SELECT json_build_object(
    'stopped', count(shutdown_at), 'all', count(*), 'waited', min(extract(epoch FROM shutdown_at - heartbeat_at)))
FROM pgqrs_workers WHERE pod_uid = '{uid}' AND id IN (SELECT worker_id FROM ledger WHERE pod_uid = '{uid}')
"""


@pytest.fixture(scope="module")
def node(ledgered: LedgeredShop, nodes: Nodes) -> Iterator[str]:
    """Name a node with a busy pod of each queue, for which others wait elsewhere; the database is elsewhere too."""
    del nodes  # there before the pods, so that it is gone after them
    kubectl = ledgered.installation.cluster.kubectl
    database = kubectl(
        *("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=development-postgres"),
        "-o=jsonpath={.items[*].spec.nodeName}",
    )
    names = kubectl("get", "nodes", "-o=jsonpath={.items[*].metadata.name}").split()
    chosen, elsewhere = next(name for name in reversed(names) if name != database), database
    for queue, spec in _QUEUES.items():
        ledgered.ready_queue(queue, **spec)
    busy = [pod(f"{queue}-busy", queue, container(environment={"CONCURRENCY": str(_MESSAGES)})) for queue in _QUEUES]
    idle = [pod(f"{queue}-idle", queue, container(environment={"CONCURRENCY": "8"})) for queue in _QUEUES]
    for where, bodies in ((chosen, busy), (elsewhere, idle)):
        for body in bodies:
            body["spec"]["nodeName"] = where
    ledgered.start(*busy)
    for queue in _QUEUES:
        ledgered.send_to(queue, _MESSAGES, **_PAYLOAD)
    eventually("they have it all", lambda: sum(ledgered.running().values()) == _MESSAGES * len(_QUEUES), within=30.0)
    ledgered.start(*idle)
    yield chosen
    # Whatever became of the tests: the others need both.
    _wait_ready(ledgered, chosen)


def _ready(ledgered: LedgeredShop, node: str) -> str:
    """Give what is known of a node: `True` or `False`, `Unknown` where it is unreachable, nothing where it is gone."""
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return ledgered.installation.cluster.kubectl("get", "node", node, "--ignore-not-found", f"-o=jsonpath={path}")


def _wait_ready(ledgered: LedgeredShop, node: str) -> None:
    eventually("the node is Ready again", lambda: _ready(ledgered, node) == "True", within=120.0)


def _answers(ledgered: LedgeredShop, node: str) -> bool:
    """Tell whether the kubelet of a node answers."""
    path = f"/api/v1/nodes/{node}/proxy/healthz"
    try:
        ledgered.installation.cluster.kubectl("get", "--raw", path, "--request-timeout=1s", timeout=10.0)
    except ClusterError:
        return False
    return True


def _silence(
    ledgered: LedgeredShop, nodes: Nodes, node: str, queue: str, *, seconds: float, then: signal.Signals
) -> str:
    """Let a node fall silent, with the sidecar of a queue's busy pod; what then happens to its kubelet is said.

    Returns:
        The uid of that pod.
    """
    _wait_ready(ledgered, node)
    uid = ledgered.uid(f"{queue}-busy")
    assert nodes.signal(SIDECAR, signal.SIGSTOP, pod=uid, seconds=seconds)
    assert nodes.signal(KUBELET, signal.SIGSTOP, node=node, seconds=seconds, then=then)
    eventually("the kubelet stands still", lambda: not _answers(ledgered, node), within=10.0)
    return uid


def _assert_freed_once(ledgered: LedgeredShop, queue: str, uid: str, cause: str) -> None:
    """Say that each message was delivered twice, because of this, and that only the second delivery came to its end."""
    redeliveries = ledgered.ledger(queue).redeliveries()
    assert len({one.message for one in redeliveries}) == len(redeliveries) == _MESSAGES
    assert {(one.pod, one.cause, one.finished_before) for one in redeliveries} == {(f"{queue}-busy", cause, False)}
    assert ledgered.work(uid).redelivered == _MESSAGES


def test_a_silent_node_keeps_its_messages_until_its_heartbeats_are_too_old(
    node: str, ledgered: LedgeredShop, nodes: Nodes
) -> None:
    uid = _silence(ledgered, nodes, node, "silent", seconds=_SILENCE, then=signal.SIGCONT)
    eventually("it counts as unreachable", lambda: _ready(ledgered, node) == "Unknown", within=_SILENCE)
    ledgered.wait_stopped(uid, within=60.0)
    ends = json.loads(ledgered.query(_ENDS.format(uid=uid)))
    # Its app has not noticed, and one worker had it all.
    assert (ends["stopped"], ends["all"]) == (1, 1)
    assert ends["waited"] >= _HEARTBEAT
    ledgered.wait_done("silent", within=30.0)
    _assert_freed_once(ledgered, "silent", uid, "heartbeat timeout")

    _wait_ready(ledgered, node)
    # The pod was never anything but silent, and works again, alone.
    idle = ledgered.uid("silent-idle")
    ledgered.kubectl("delete", "pod", "silent-idle", "--wait=false")
    ledgered.wait_gone([idle], within=60.0)
    ledgered.send_to("silent", _MESSAGES, seconds=0.5)
    ledgered.wait_done("silent", within=60.0)
    assert ledgered.uid("silent-busy") == uid
    first, *later = ledgered.workers(uid)
    assert (first.status, first.reason, first.handled) == ("stopped", "heartbeat timeout", 0)
    assert [(worker.status, worker.handled) for worker in later if worker.handled] == [("ready", _MESSAGES)]
    summary = ledgered.ledger("silent").summary()
    assert (summary["sent"], summary["handled"], summary["redelivered"]) == (2 * _MESSAGES, 2 * _MESSAGES, _MESSAGES)
    assert (summary["lost"], summary["not_archived"], summary["twice"]) == (0, 0, 0)


def test_a_node_that_is_gone_frees_what_its_pods_held(node: str, ledgered: LedgeredShop, nodes: Nodes) -> None:
    # Only a kubelet that starts makes its node anew.
    uid = _silence(ledgered, nodes, node, "gone", seconds=_ABSENCE, then=signal.SIGKILL)
    ledgered.installation.cluster.kubectl("delete", "node", node)
    # As the cluster's controller does, which first waits for 40 s or more, and takes all pods of the node.
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
    status = {"status": {"phase": "Failed", "conditions": [{**condition, "message": "PodGC: node no longer exists"}]}}
    ledgered.kubectl("patch", "pod", "gone-busy", "--subresource=status", "-p", json.dumps(status))
    ledgered.kubectl("delete", "pod", "gone-busy", "--grace-period=0", "--force", "--wait=false")
    (worker,) = [worker for worker in ledgered.wait_stopped(uid) if worker.id == _holder(ledgered, uid)]
    assert worker.reason in {"pod failed: DeletionByPodGC", "pod deleted: DeletionByPodGC"}
    ledgered.wait_done("gone", within=30.0)
    _assert_freed_once(ledgered, "gone", uid, worker.reason)
    summary = ledgered.ledger("gone").summary()
    assert (summary["sent"], summary["handled"], summary["redelivered"]) == (_MESSAGES, _MESSAGES, _MESSAGES)
    assert (summary["lost"], summary["not_archived"], summary["twice"]) == (0, 0, 0)


def _holder(ledgered: LedgeredShop, uid: str) -> int:
    """Give the worker of a pod that began with its messages."""
    return ledgered.number(f"SELECT DISTINCT worker_id FROM ledger WHERE pod_uid = '{uid}'")
