"""Pods whose place another one takes: under the same name, and on another node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import eventually
from tests.cluster.workloads import container, controlled, pod
from tests.support.installation import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.ledgered import LedgeredShop

pytestmark = pytest.mark.timeout(400)

_DRAIN = {"pgqrs.io/drain-seconds": "15"}


@pytest.mark.parametrize(
    ("queue", "how"),
    [
        pytest.param("kept", (), id="deleted"),
        pytest.param("forced", ("--grace-period=0", "--force"), id="forced"),
    ],
)
def test_a_pod_that_comes_back_under_its_name_is_another_worker(
    queue: str, how: tuple[str, ...], ledgered: LedgeredShop
) -> None:
    # Who waited for a lease or a heartbeat here would wait for ten minutes.
    ledgered.patient_queues(queue)
    ledgered.apply(controlled("StatefulSet", pod(queue, queue, container("dies_of_sigterm"), annotations=_DRAIN)))
    name = f"{queue}-0"
    ledgered.send_to(queue, 6, seconds=4)
    first = eventually("the pod is there", lambda: ledgered.uid(name), within=20.0)
    ledgered.wait_at_work([first], within=60.0)
    ledgered.follow(name)
    ledgered.kubectl("delete", "pod", name, "--wait=false", *how)

    def another() -> str | None:
        uid = ledgered.uid(name)
        return uid if uid not in ("", first) else None

    second = eventually("the pod is there again", another, within=60.0)
    ledgered.wait_done(queue, within=90.0)
    old, new = ledgered.wait_stopped(first), ledgered.workers(second)
    assert [worker.status for worker in new if worker.handled] == ["ready"]
    assert not {worker.id for worker in old} & {worker.id for worker in new}
    summary = ledgered.ledger(queue).summary()
    assert (summary["handled"], summary["lost"]) == (6, 0)
    if not how:
        # Only where nobody drained does anything come twice.
        assert summary["redelivered"] == 0


@pytest.fixture
def node(ledgered: LedgeredShop) -> Iterator[str]:
    """Name a node where no new pod starts but those of this test; it is like the others again at its end."""
    kubectl = ledgered.installation.cluster.kubectl
    nodes = [body["metadata"]["name"] for body in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]]
    yield nodes[-1]
    kubectl("uncordon", *nodes)


def test_a_drained_node_hands_its_work_over(node: str, ledgered: LedgeredShop) -> None:
    ledgered.patient_queues("moved")
    template = pod("moved", "moved", container("dies_of_sigterm"), annotations=_DRAIN)
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "moved"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "moved"}}},
    }
    kubectl = ledgered.installation.cluster.kubectl
    others = [name for name in kubectl("get", "nodes", "-o=jsonpath={.items[*].metadata.name}").split() if name != node]
    # All begin on the node that is drained; nothing that runs elsewhere is touched by that.
    kubectl("cordon", *others)
    ledgered.apply(budget, controlled("Deployment", template, replicas=2))
    ledgered.kubectl("rollout", "status", "deployment/moved", "--timeout=90s", timeout=100.0)
    kubectl("uncordon", *others)
    pods = {body["metadata"]["name"]: body for body in ledgered.items("pods", "-l", "app=moved")}
    assert {body["spec"]["nodeName"] for body in pods.values()} == {node}
    ledgered.follow(*pods)
    uids = ledgered.uids(pods)
    ledgered.send_to("moved", 40, seconds=3)
    ledgered.wait_at_work(uids.values())

    # Only this test's pods: operator, injector and database may stand on this node, and stay.
    system = kubectl("-n", SYSTEM, "get", "pods", "-o", "name")
    kubectl("drain", node, "--pod-selector=app=moved", "--delete-emptydir-data", "--timeout=120s", timeout=130.0)

    ledgered.wait_gone(uids.values(), within=10.0)
    for uid in uids.values():
        work = ledgered.work(uid)
        assert work.began == work.ended > 0
        reasons = [worker.reason or "" for worker in ledgered.wait_stopped(uid)]
        assert [reason for reason in reasons if reason.startswith("PgqrsWorker")] == []
    moved = {body["spec"].get("nodeName") for body in ledgered.items("pods", "-l", "app=moved")}
    assert node not in moved
    assert kubectl("-n", SYSTEM, "get", "pods", "-o", "name") == system
    ledgered.wait_done("moved", within=90.0)
    summary = ledgered.ledger("moved").summary()
    assert (summary["handled"], summary["lost"], summary["redelivered"]) == (40, 0, 0)
