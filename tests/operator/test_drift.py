"""What somebody changed or deleted by hand comes back, with an Event and a counter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgqrs import lifecycle, queues
from pgqrs.models import QueuePolicy, WorkerStatus

if TYPE_CHECKING:
    import pgqrs
    from tests.operator.api_server import ApiServer
    from tests.operator.conftest import Cluster


def _told(server: ApiServer, reason: str) -> list[tuple[str, str, str]]:
    """Give kind, name and type of whom Events of this reason are about."""
    return [
        (event["involvedObject"]["kind"], event["involvedObject"]["name"], event["type"])
        for event in server.events
        if event["reason"] == reason
    ]


async def test_a_queue_that_was_changed_by_hand_is_set_right(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails", spec={"maxReads": 7})
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await queues.set_policy(admin.database, "emails", QueuePolicy(paused=True))
        await cluster.eventually(lambda: _told(server, "DriftRepaired"))
    assert (await queues.get(admin.database, "emails")).policy == QueuePolicy(read_limit=7)
    assert _told(server, "DriftRepaired") == [("PgqrsQueue", "emails", "Warning")]
    assert b'pgqrs_operator_drift_repairs_total{kind="queue_changed"} 1.0' in cluster.metrics.text()


async def test_a_queue_that_was_deleted_by_hand_is_made_again(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails", spec={"maxReads": 7})
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await queues.delete(admin.database, "emails")
        await cluster.eventually(lambda: _told(server, "Recreated"))
        row = await queues.get(admin.database, "emails")
        assert row.policy.read_limit == 7
        await cluster.eventually(lambda: server.get("PgqrsQueue", "emails")["status"]["queueId"] == row.id)  # type: ignore[index]
    assert _told(server, "Recreated") == [("PgqrsQueue", "emails", "Warning")]
    assert b'pgqrs_operator_drift_repairs_total{kind="queue_removed"} 1.0' in cluster.metrics.text()


@pytest.mark.parametrize(
    ("state", "as_declared", "by_hand"),
    [
        ("Suspended", WorkerStatus.SUSPENDED, lifecycle.resume),
        ("Ready", WorkerStatus.READY, lifecycle.suspend),
        ("Ready", WorkerStatus.READY, lifecycle.interrupt),
    ],
)
async def test_a_worker_that_was_resumed_or_paused_by_hand_is_set_right(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, state: str, *, as_declared: WorkerStatus, by_hand: object
) -> None:
    assert callable(by_hand)
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    spec = {"queueRef": {"name": "emails"}, "hostname": "h", "port": 1, "state": state}
    server.put("PgqrsWorker", "w", spec=spec)
    reason = "Suspended" if state == "Suspended" else "Working"
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "WaitingForWorker")
        row = await lifecycle.register(admin.database, "emails", hostname="h", port=1)
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == reason)
        # What is declared is no drift, nor is a change of it.
        assert not _told(server, "DriftRepaired")
        await by_hand(admin.database, row.id)
        await cluster.eventually(lambda: _told(server, "DriftRepaired"))
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == reason)
        assert await lifecycle.status(admin.database, row.id) is as_declared
        other = "Ready" if state == "Suspended" else "Suspended"
        server.change("PgqrsWorker", "w", spec={"state": other}, metadata={"generation": 2})
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") not in {reason, "Draining"})
    assert _told(server, "DriftRepaired") == [("PgqrsWorker", "w", "Warning")]
    assert b'pgqrs_operator_drift_repairs_total{kind="worker"} 1.0' in cluster.metrics.text()


async def test_what_is_declared_anew_is_no_drift(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    server.put("PgqrsWorker", "w", spec={"queueRef": {"name": "emails"}, "hostname": "h", "port": 1})
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "WaitingForWorker")
        row = await lifecycle.register(admin.database, "emails", hostname="h", port=1)
        await lifecycle.suspend(admin.database, row.id)
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "PausedByItself")
        server.change("PgqrsWorker", "w", spec={"state": "Ready"}, metadata={"generation": 2})
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "Working")
        assert await lifecycle.status(admin.database, row.id) is WorkerStatus.READY
    assert not _told(server, "DriftRepaired")
