"""A pod whose `PgqrsWorker` cannot be read: its dead hold nothing, and nobody else of it is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pgqrs_operator import declarations, pods
from pgqrs_operator.facts import Concerned, Key
from pgqrs_operator.plan import plan
from pgqrs_operator.settings import Settings
from pgqrs_operator.store import read_worker
from tests.operator.planner_model import Cluster
from tests.operator.planner_steps import do

if TYPE_CHECKING:
    from pgqrs_operator.facts import Plan

SETTINGS = Settings()
WEB = Key("shop", "web-1")
#: A status that no operator of ours wrote.
ODD = {"drain": {"generation": 1, "since": "soon"}}
POD = pods.read(
    {
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "uid": "uid-1",
            "labels": {"pgqrs.io/queue": "a"},
            "annotations": {"pgqrs.io/injected": "v1"},
        },
        "spec": {"containers": [{"name": "app"}]},
        "status": {"phase": "Running"},
    }
)


def mirror(status: dict[str, Any], namespace: str = "shop") -> Any:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "uid-1"}
    metadata = {"name": "web-1", "namespace": namespace, "uid": "w1", "generation": 1, "ownerReferences": [owner]}
    spec = {"queueRef": {"name": "a"}, "state": "Suspended"}
    return read_worker({"kind": "PgqrsWorker", "metadata": metadata, "spec": spec, "status": status})


def test_somebody_stands_for_a_pod_whose_resource_cannot_be_read() -> None:
    desired = declarations.desired([], [mirror(ODD)], [POD], SETTINGS)
    assert desired.defects.keys() == {Concerned("worker", WEB)}
    (stand_in,) = desired.workers
    assert (stand_in.pod_uid, stand_in.stand_in, stand_in.frozen) == ("uid-1", True, True)


def test_of_two_that_speak_for_a_pod_the_one_that_can_be_read_does() -> None:
    other = read_worker(
        {
            "kind": "PgqrsWorker",
            "metadata": {
                "name": "mine",
                "namespace": "shop",
                "uid": "w2",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "uid-1"}],
            },
            "spec": {"queueRef": {"name": "a"}},
        }
    )
    (worker,) = declarations.desired([], [mirror(ODD), other], [POD], SETTINGS).workers
    assert (worker.key, worker.stand_in) == (Key("shop", "mine"), False)


def test_what_cannot_be_read_in_another_namespace_says_nothing_of_the_pod() -> None:
    liar, stand_in = declarations.desired([], [mirror(ODD, namespace="evil")], [POD], SETTINGS).workers
    assert liar.problem
    assert (stand_in.key, stand_in.frozen) == (WEB, False)


@pytest.fixture
def cluster() -> Cluster:
    """A pod that was paused by its resource, whose status is odd from now on, and what it still holds."""
    made = Cluster()
    declared: list[tuple[Any, ...]] = [
        ("declare", Key("shop", "a"), {}),
        ("pod", "uid-1", "running"),
        ("look after", WEB, "Suspended"),
    ]
    for step in declared:
        do(made, step)
    made.settle()
    works: list[tuple[Any, ...]] = [("registered", "web-1.shop:1", "a"), ("sent", "a"), ("leased", 0)]
    for step in works:
        do(made, step)
    made.settle()
    (row,) = made.rows.workers.values()
    assert (row.status, row.owner, row.held) == ("interrupted", "shop/web-1", 1)
    made.workers[WEB]["status"] = ODD
    return made


def test_while_its_pod_goes_on_nobody_is_resumed_nor_told_but_of_the_defect(cluster: Cluster) -> None:
    planned = plan(*cluster.facts())
    assert planned.actions == ()
    assert planned.defects.keys() == {Concerned("worker", WEB)}
    assert planned.workers[WEB].reason == "InternalError"
    assert not planned.reports
    assert not planned.done_workers


@pytest.mark.parametrize("there", [True, False])
def test_once_its_pod_has_ended_what_it_held_is_free(cluster: Cluster, *, there: bool) -> None:
    """Also where the pod is shown still, with containers that have ended."""
    do(cluster, ("pod", "uid-1", "running" if there else "ended"))

    def planned() -> Plan:
        desired, observed = cluster.facts()
        return plan(desired, replace(observed, ended={"uid-1": "container app: OOMKilled (137)"}))

    cluster.rows.carry_out(planned().actions)
    (row,) = cluster.rows.workers.values()
    assert (row.status, row.held) == ("stopped", 0)
    assert cluster.rows.queues["a"].free == 1
    assert planned().actions == ()
    assert planned().workers[WEB].reason == "InternalError"
