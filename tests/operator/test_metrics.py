"""An operator at work shows what it does, over the port that Prometheus and autoscalers ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from pgqrs import fleet, lifecycle, queues
from pgqrs.models import PodIdentity, QueuePolicy
from pgqrs_operator.health import HealthServer
from tests.operator.world import World, leased
from tests.support.postgres import free_port

if TYPE_CHECKING:
    import pgqrs
    from pgqrs_operator.canary import Canary
    from pgqrs_operator.leadership import Leadership
    from pgqrs_operator.metrics import Metrics
    from tests.operator.conftest import Cluster


@dataclass
class Leader:
    """A process that leads, as far as the health server asks."""

    leads: bool = True
    leader_address: str | None = None
    #: As the canary has it.
    seen_at: float | None = None


def _shown(metrics: Metrics) -> dict[str, float]:
    """All samples of the operator's own, by their names and the values of their labels."""
    return {
        " ".join([sample.name.removeprefix("pgqrs_operator_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


async def test_releases_drift_and_databases_are_counted(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    server, metrics, where = cluster.server, cluster.metrics, admin.database.where
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    uid = server.put_pod("web-1")["metadata"]["uid"]
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        numbers = _shown(metrics)
        assert numbers["queue_writes_total Created"] == numbers[f"database_up {where}"] == 1
        assert numbers[f"database_failures_total {where}"] == 0
        assert numbers["reconcile_duration_seconds_count"] >= 1
        assert numbers["database_round_trips_total"] >= 4
        assert numbers[f"database_reconcile_duration_seconds {where}"] > 0

        pod = PodIdentity(uid=uid, name="web-1", namespace="shop")
        row = await lifecycle.register(admin.database, "emails", hostname="web-1.shop", pod=pod)
        await leased(World(admin.database), row)
        del server.objects["pods", "shop", "web-1"]
        await cluster.eventually(lambda: _shown(metrics)["messages_released_total pod_deleted"])
        numbers = _shown(metrics)
        assert numbers["workers_stopped_total pod_deleted"] == numbers["messages_released_total pod_deleted"] == 1
        assert numbers["release_delay_seconds_count pod_deleted"] == 1
        assert 0 < numbers["release_delay_seconds_sum pod_deleted"] < 30

        await queues.set_policy(admin.database, "emails", QueuePolicy(paused=True))
        await cluster.eventually(lambda: _shown(metrics)["drift_repairs_total queue_changed"])
        await cluster.eventually(lambda: "DriftRepaired" in server.reasons())

        # What was there for the database goes with its last queue.
        server.delete("PgqrsQueue", "emails")
        await cluster.eventually(lambda: f"database_up {where}" not in _shown(metrics))
        assert not [name for name in _shown(metrics) if where in name or "emails" in name]


async def test_one_port_answers_prometheus_and_autoscalers(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    assert admin.database.dsn == dsn
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    leader = Leader()
    port = free_port()
    health = HealthServer(cluster.metrics, cast("Leadership", leader), cast("Canary", leader), port)
    await health.start()
    try:
        async with cluster.operator(), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            await cluster.eventually(lambda: list(cluster.metrics.backlogs))
            async with session.get("/scale/shop/emails") as response:
                assert (response.status, (await response.json())["total"]) == (200, 0)
            async with session.get("/metrics") as response:
                text = await response.text()
            assert 'pgqrs_queue_messages{namespace="shop",queue="emails",state="ready"} 0.0' in text
            async with session.get("/scale/shop/none") as response:
                assert response.status == 404
    finally:
        await health.aclose()


async def test_no_row_that_somebody_wrote_keeps_the_others_from_being_counted(world: World) -> None:
    """There are times without an age, and times of the future."""
    for name in ("odd", "future", "released", "empty"):
        await queues.create(world.db, name)
    async with world.db.transaction() as transaction:
        await transaction.execute(
            "INSERT INTO pgqrs_messages (queue_id, payload, vt, enqueued_at) "
            "SELECT id, '{}', made.vt::timestamptz, made.enqueued_at::timestamptz FROM pgqrs_queues JOIN (VALUES "
            "('odd', '-infinity', '-infinity'), ('odd', '4000-01-01 BC', '4000-01-01 BC'), "
            "('future', '2020-01-01', 'infinity'), ('released', '2020-01-01', now()::text)"
            ") made (name, vt, enqueued_at) ON made.name = queue_name"
        )
    found = await fleet.counts(world.db, ["odd", "future", "released", "empty"])
    assert {name: one.messages.ready for name, one in found.items()} == {
        "odd": 2, "future": 1, "released": 1, "empty": 0,
    }  # fmt: skip
    assert (found["odd"].oldest, found["odd"].oldest_since) == (found["empty"].oldest, found["empty"].oldest_since)
    assert found["empty"].oldest is None
    for name in ("future", "released"):
        oldest = found[name].oldest
        assert oldest is not None
        assert 0 <= oldest.total_seconds() < 60
