"""Processes without a session that end with their container, in a pod that goes on; and what is stored of any end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pgqrs import lifecycle, pods
from pgqrs.models import WorkerStatus
from pgqrs_operator.endings import Endings
from pgqrs_operator.pods import Restart
from pgqrs_operator.pods import read as read_pod
from pgqrs_operator.store import Store
from tests.operator.world import POD, WORKER, World, leased, queue

if TYPE_CHECKING:
    import pgqrs
    from pgqrs.models import PodIdentity, WorkerInfo
    from tests.operator.conftest import Cluster

OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
WHY = "container app: OOMKilled (137)"


def _after(row: WorkerInfo, seconds: float) -> datetime:
    assert row.started_at is not None
    return row.started_at + timedelta(seconds=seconds)


async def _unmodified(world: World, name: str, pod: PodIdentity = POD) -> WorkerInfo:
    """Register as an app does that knows nothing of pods, and let the pod's sidecar find the row."""
    row = await lifecycle.register(world.db, "emails", hostname=f"{pod.name}.{pod.namespace}", port=int(name))
    adopted = await pods.adopt(world.db, pod, seconds=60.0)
    assert row.id in adopted.ids
    return row


async def _aged(world: World, row: WorkerInfo) -> None:
    async with world.db.transaction() as transaction:
        await transaction.execute(
            f"UPDATE pgqrs_workers SET started_at = started_at - interval '1 h' WHERE id = {row.id}"
        )


async def test_what_registered_before_the_restart_is_stopped_and_nothing_else(world: World) -> None:
    await world.converge()
    sidecars = await world.worker()
    old, new = await _unmodified(world, "101"), await _unmodified(world, "102")
    message = await leased(world, old)
    for row in (sidecars, old):
        await _aged(world, row)
    world.workers = (WORKER,)
    world.restarts = {POD.uid: Restart(before=_after(new, -5), reason=WHY)}
    assert (await world.converge()).workers[WORKER.key].reason == "Working"
    stopped = await lifecycle.get(world.db, old.id)
    assert (stopped.status, stopped.stop_reason) == (WorkerStatus.STOPPED, WHY)
    assert await lifecycle.leased(world.db, old.id) == 0
    assert message
    for row in (sidecars, new):
        assert await lifecycle.status(world.db, row.id) is WorkerStatus.READY


async def test_where_no_app_container_runs_all_that_they_registered_is_over(world: World) -> None:
    await world.converge()
    sidecars, row = await world.worker(), await _unmodified(world, "101")
    world.workers = (WORKER,)
    world.restarts = {"another": Restart(before=None, reason=WHY)}
    await world.converge()
    assert await lifecycle.status(world.db, row.id) is WorkerStatus.READY
    world.restarts = {POD.uid: Restart(before=None, reason=WHY)}
    await world.converge()
    assert (await lifecycle.get(world.db, row.id)).stop_reason == WHY
    assert await lifecycle.status(world.db, sidecars.id) is WorkerStatus.READY


def _started(at: datetime, **more: Any) -> dict[str, Any]:
    return {"name": "app", "state": {"running": {"startedAt": at.strftime("%Y-%m-%dT%H:%M:%SZ")}}, **more}


async def test_the_operator_frees_what_an_unmodified_app_held_when_its_container_was_started_anew(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin
) -> None:
    server, world = cluster.server, World(admin.database, queues=(queue(),))
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    uid = server.put_pod("web-1")["metadata"]["uid"]
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "WaitingForWorker")
        pod = type(POD)(uid=uid, name="web-1", namespace="shop")
        sidecars = await lifecycle.register(admin.database, "emails", hostname="web-1.shop", pod=pod)
        row = await _unmodified(world, "101", pod)
        await leased(world, row)
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "Working")
        server.change("Pod", "web-1", status={"containerStatuses": [_started(_after(row, 60), lastState=OOM)]})
        await cluster.eventually(
            lambda: b'pgqrs_operator_workers_stopped_total{cause="pod_ended"} 1.0' in cluster.metrics.text()
        )
    assert (await lifecycle.get(admin.database, row.id)).stop_reason == WHY
    assert await lifecycle.leased(admin.database, row.id) == 0
    assert await lifecycle.status(admin.database, sidecars.id) is WorkerStatus.READY


async def test_a_restart_counts_only_as_the_api_server_itself_shows_it(cluster: Cluster) -> None:
    """The watch may show a pod that was replaced by one of its name, or what it was never told of."""
    server = cluster.server
    seen = []
    for name in ("same", "replaced", "gone", "unreadable", "mistaken"):
        server.put_pod(name)
        server.change("Pod", name, status={"containerStatuses": [_started(datetime.now(UTC), lastState=OOM)]})
        body = server.get("Pod", name)
        assert body is not None
        seen.append(read_pod(body))
    assert all(pod.restart for pod in seen)
    server.put_pod("replaced")
    server.change("Pod", "replaced", status={"containerStatuses": [_started(datetime.now(UTC), lastState=OOM)]})
    server.delete("Pod", "gone")
    server.refusals["/pods/unreadable"] = 500
    server.change("Pod", "mistaken", status={"containerStatuses": [_started(datetime.now(UTC))]})
    found = await Endings(cluster.kubernetes, Store().pods).restarts(seen)
    assert list(found) == [seen[0].uid]


@pytest.mark.parametrize(
    ("status", "deleted", "reason"),
    [
        pytest.param(
            {"initContainerStatuses": [{"name": "pgqrs-sidecar", "state": OOM}]}, False, WHY, id="all containers ended"
        ),
        pytest.param({"phase": "Failed", "reason": "Evicted"}, False, f"pod failed: Evicted; {WHY}", id="evicted"),
        pytest.param(
            {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]},
            True,
            f"pod deleted: DeletionByTaintManager; {WHY}",
            id="gone with its node",
        ),
    ],
)
async def test_reason_and_exit_code_are_stored_with_the_release(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, status: dict[str, Any], *, deleted: bool, reason: str
) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    uid = server.put_pod("web-1")["metadata"]["uid"]
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "WaitingForWorker")
        pod = type(POD)(uid=uid, name="web-1", namespace="shop")
        row = await lifecycle.register(admin.database, "emails", hostname="web-1.shop", pod=pod)
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "Working")
        server.change("Pod", "web-1", status={"containerStatuses": [{"name": "app", "state": OOM}], **status})
        await cluster.seen()
        if deleted:
            server.delete("Pod", "web-1")
        cause = "pod_deleted" if deleted else "pod_ended"
        counted = f'pgqrs_operator_workers_stopped_total{{cause="{cause}"}} 1.0'.encode()
        await cluster.eventually(lambda: counted in cluster.metrics.text())
    assert (await lifecycle.get(admin.database, row.id)).stop_reason == reason


async def test_many_ends_are_confirmed_side_by_side(cluster: Cluster) -> None:
    """A thousand pods that end at once do not wait for each other."""
    server = cluster.server
    seen = []
    for number in range(40):
        server.put_pod(f"web-{number}")
        server.change("Pod", f"web-{number}", status={"phase": "Failed"})
        body = server.get("Pod", f"web-{number}")
        assert body is not None
        seen.append(read_pod(body))
    server.gate = asyncio.Event()
    asking = asyncio.create_task(
        Endings(cluster.kubernetes, cluster.store.pods).confirmed({}, {pod.uid: pod for pod in seen})
    )
    async with asyncio.timeout(10.0):
        while len(server.requests) < 10:
            await asyncio.sleep(0.01)
    server.gate.set()
    assert await asking == {pod.uid: "pod failed" for pod in seen}
