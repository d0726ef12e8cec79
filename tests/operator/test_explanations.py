"""How a container ended is written on the workers that a sidecar only knew to be dead, and on their dead letters."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pgqrs import lifecycle, pods
from pgqrs.models import PodIdentity
from pgqrs_operator.pods import is_own_end
from pgqrs_operator.pods import read as read_pod
from tests.operator.world import World, leased, queue

if TYPE_CHECKING:
    import pgqrs
    from tests.operator.conftest import Cluster

WHY = "container app: OOMKilled (137)"


def _form(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _oom(began: datetime, ended: datetime) -> dict[str, Any]:
    end = {"exitCode": 137, "reason": "OOMKilled", "startedAt": _form(began), "finishedAt": _form(ended)}
    return {"terminated": end}


def _pod(cluster: Cluster, dsn: str) -> PodIdentity:
    """Declare a queue whose messages no process may die under, and give a pod of it."""
    cluster.server.put_secret(dsn)
    cluster.server.put("PgqrsQueue", "emails", spec={"maxDeaths": 1})
    uid = cluster.server.put_pod("web-1")["metadata"]["uid"]
    return PodIdentity(uid=uid, name="web-1", namespace="shop")


async def test_what_the_node_says_of_the_end_is_added_to_what_the_sidecar_knew(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin
) -> None:
    server, world = cluster.server, World(admin.database, queues=(queue(),))
    pod = replace(_pod(cluster, dsn), container="app")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "WaitingForWorker")
        row = await lifecycle.register(admin.database, "emails", hostname="web-1.shop", pod=pod)
        message = await leased(world, row)
        await lifecycle.stop(admin.database, [row.id], reason=lifecycle.DIED, died=True)
        now = datetime.now(UTC)
        status = {
            "name": "app",
            "state": {"running": {"startedAt": _form(now)}},
            "lastState": _oom(now - timedelta(minutes=5), now),
        }
        server.change("Pod", "web-1", status={"containerStatuses": [status]})
        async with asyncio.timeout(30):
            while (await lifecycle.get(admin.database, row.id)).stop_reason != f"process died: {WHY}":
                await cluster.seen()
                await asyncio.sleep(0.05)
    (letter,) = await (await admin.get_messages()).dead_letters("emails")
    assert letter.id == message
    assert letter.reason.endswith(f": process died: {WHY}")


async def test_a_process_without_a_session_that_ended_with_its_container_died_too(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin
) -> None:
    server, world = cluster.server, World(admin.database, queues=(queue(),))
    pod = _pod(cluster, dsn)
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "WaitingForWorker")
        row = await lifecycle.register(world.db, "emails", hostname="web-1.shop", port=101)
        assert row.id in (await pods.adopt(world.db, pod, seconds=60.0)).ids
        message = await leased(world, row)
        ended = {"name": "app", "state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}}
        server.change("Pod", "web-1", status={"containerStatuses": [ended]})
        await cluster.eventually(lambda: b'workers_stopped_total{cause="pod_ended"} 1.0' in cluster.metrics.text())
    (letter,) = await (await admin.get_messages()).dead_letters("emails")
    assert letter.id == message
    assert letter.reason.endswith(": container app: ended (1)")


def test_only_an_end_of_its_own_speaks_against_messages() -> None:
    ended = [{"name": "app", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]
    own = {"metadata": {}, "status": {"phase": "Failed", "containerStatuses": ended}}
    evicted = {"metadata": {}, "status": {"phase": "Failed", "reason": "Evicted", "containerStatuses": ended}}
    assert [is_own_end(read_pod(body).ended or "") for body in (own, evicted)] == [True, False]
    assert not is_own_end("pod deleted: container app: OOMKilled (137)")
