"""Idle pods cost less to delete than busy ones; and telling that costs the API server little."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pgqrs import fleet, lifecycle
from pgqrs.fleet import FleetWorker
from pgqrs.models import PodIdentity, WorkerId, WorkerInfo, WorkerStatus
from pgqrs_operator.deletion_cost import BUSY, DeletionCosts
from pgqrs_operator.settings import Settings
from tests.operator.world import World, leased
from tests.support.clock import Clock

if TYPE_CHECKING:
    import pgqrs
    from tests.operator.conftest import Cluster

_COST = "controller.kubernetes.io/pod-deletion-cost"
_OWNERS = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d9", "uid": "r1", "controller": True}]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("pgqrs_operator.deletion_cost.time", made)
    return made


def _pods(cluster: Cluster, *names: str, **metadata: Any) -> None:
    for name in names:
        cluster.server.put_pod(name, **{"uid": f"uid-{name}", "ownerReferences": _OWNERS, **metadata})


def _rows(**held: int) -> list[FleetWorker]:
    """One row of each pod, with so many messages."""
    return [
        FleetWorker(
            info=WorkerInfo(
                id=WorkerId(number), name=name, hostname=name, port=1, queue_id=None, status=WorkerStatus.READY,
                started_at=None, heartbeat_at=None, shutdown_at=None, pod_uid=f"uid-{name}", leased=count,
            ),
            queue_name="emails", owner=None, silent=False, stale=False,
        )
        for number, (name, count) in enumerate(held.items())
    ]  # fmt: skip


def _cost(cluster: Cluster, name: str) -> str | None:
    found = cluster.server.get("Pod", name)
    assert found is not None
    cost: str | None = found["metadata"].get("annotations", {}).get(_COST)
    return cost


def _writes(cluster: Cluster) -> list[str]:
    return [
        path.rpartition("/")[2] for method, path in cluster.server.requests if method == "PATCH" and "/pods/" in path
    ]


async def test_a_busy_pod_costs_more_until_it_has_been_idle_for_a_while(cluster: Cluster, clock: Clock) -> None:
    _pods(cluster, "busy", "idle")
    await cluster.seen()
    costs = DeletionCosts(cluster.kubernetes, cluster.store)
    costs.note(_rows(busy=3, idle=0))
    await costs.once()
    assert (_cost(cluster, "busy"), _cost(cluster, "idle")) == (BUSY, None)
    # Short messages come and go: nothing is written.
    for held in (0, 2, 0, 1, 0) * 5:
        clock.now += 10
        costs.note(_rows(busy=held, idle=0))
        await costs.once()
    assert _writes(cluster) == ["busy"]
    for _ in range(4):
        clock.now += 10
        costs.note(_rows(busy=0, idle=0))
        await costs.once()
    assert _cost(cluster, "busy") is None
    assert _writes(cluster) == ["busy", "busy"]


async def test_a_pod_is_written_once_in_30_seconds(cluster: Cluster, clock: Clock) -> None:
    _pods(cluster, "web-1")
    costs = DeletionCosts(cluster.kubernetes, cluster.store)
    for _ in range(7):
        # Somebody takes it off again and again.
        cluster.server.change("Pod", "web-1", metadata={"annotations": {_COST: None}})
        await cluster.seen()
        costs.note(_rows(**{"web-1": 1}))
        await costs.once()
        clock.now += 10
    assert len(_writes(cluster)) == 3


async def test_all_pods_together_are_written_a_few_at_a_time_and_the_busy_ones_first(
    cluster: Cluster, clock: Clock
) -> None:
    names = [f"web-{number}" for number in range(50)]
    _pods(cluster, *names)
    for name in names[:25]:
        cluster.server.change("Pod", name, metadata={"annotations": {_COST: BUSY}})
    await cluster.seen()
    costs = DeletionCosts(cluster.kubernetes, cluster.store)
    idle, busy = dict.fromkeys(names[:25], 0), dict.fromkeys(names[25:], 1)
    written = []
    for _ in range(4):
        costs.note(_rows(**idle, **busy))
        await costs.once()
        written.append(len(_writes(cluster)))
        clock.now += 1
    assert written == [20, 40, 50, 50]
    # Those of one pass are written side by side.
    assert set(_writes(cluster)[:20]) <= set(busy) <= set(_writes(cluster)[:40])
    assert {_cost(cluster, name) for name in idle} == {None}


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"annotations": {"pgqrs.io/injected": "v1", _COST: "7"}}, id="somebody else's cost"),
        pytest.param({"ownerReferences": [{"kind": "StatefulSet", "controller": True}]}, id="no ReplicaSet"),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, id="is being deleted"),
    ],
)
async def test_pods_that_it_does_not_concern_are_left_alone(
    cluster: Cluster, clock: Clock, metadata: dict[str, Any]
) -> None:
    assert clock.now
    _pods(cluster, "web-1", **metadata)
    await cluster.seen()
    costs = DeletionCosts(cluster.kubernetes, cluster.store)
    costs.note(_rows(**{"web-1": 1}))
    await costs.once()
    assert _writes(cluster) == []


async def test_an_outage_of_the_database_makes_nobody_idle(cluster: Cluster, clock: Clock) -> None:
    _pods(cluster, "web-1")
    await cluster.seen()
    costs = DeletionCosts(cluster.kubernetes, cluster.store)
    costs.note(_rows(**{"web-1": 1}))
    await costs.once()
    clock.now += 100
    await costs.once()
    assert (_cost(cluster, "web-1"), len(_writes(cluster))) == (BUSY, 1)


async def test_another_pod_of_the_same_name_is_not_written(cluster: Cluster, clock: Clock) -> None:
    assert clock.now
    _pods(cluster, "web-1")
    await cluster.seen()
    costs = DeletionCosts(cluster.kubernetes, cluster.store)
    costs.note(_rows(**{"web-1": 1}))
    cluster.server.put_pod("web-1", uid="another")
    await costs.once()
    assert _cost(cluster, "web-1") is None


async def test_where_it_is_not_allowed_it_is_said_once_and_tried_rarely(
    cluster: Cluster, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"web-{number}" for number in range(5)]
    _pods(cluster, *names)
    await cluster.seen()
    for name in names:
        cluster.server.refusals[f"/pods/{name}"] = 403
    costs = DeletionCosts(cluster.kubernetes, cluster.store)
    with caplog.at_level(logging.DEBUG, "pgqrs_operator"):
        for _ in range(20):
            costs.note(_rows(**dict.fromkeys(names, 1)))
            await costs.once()
            clock.now += 25
    assert len(_writes(cluster)) == len(names)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    clock.now += 600
    cluster.server.refusals.clear()
    costs.note(_rows(**dict.fromkeys(names, 1)))
    await costs.once()
    assert {_cost(cluster, name) for name in names} == {BUSY}


async def test_what_is_gone_is_forgotten(cluster: Cluster, clock: Clock) -> None:
    assert clock.now
    costs = DeletionCosts(cluster.kubernetes, cluster.store)
    costs.note(_rows(gone=1))
    await costs.once()
    _pods(cluster, "gone")
    await cluster.seen()
    await costs.once()
    assert _writes(cluster) == []


@pytest.mark.parametrize("chosen", [True, False])
async def test_the_operator_does_it_where_it_is_told_to(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch, *, chosen: bool
) -> None:
    cluster.settings = replace(Settings(), deletion_cost=chosen)
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    _pods(cluster, "web-1", "web-2")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        for name in ("web-1", "web-2"):
            pod = PodIdentity(uid=f"uid-{name}", name=name, namespace="shop")
            row = await lifecycle.register(admin.database, "emails", hostname=f"{name}.shop", pod=pod)
        await leased(World(admin.database), row)
        if chosen:
            await cluster.eventually(lambda: _cost(cluster, "web-2") == BUSY)
        seen = 0
        observe = fleet.observe

        async def observed(*args: Any, **more: Any) -> Any:
            nonlocal seen
            found = await observe(*args, **more)
            seen += any(one.info.leased for one in found.workers)
            return found

        monkeypatch.setattr("pgqrs.fleet.observe", observed)
        await cluster.eventually(lambda: seen >= 3)
        assert _writes(cluster) == (["web-2"] if chosen else [])
