"""Deletions end: whatever of Secret, database and tables is gone, and each is told of once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from pgqrs import lifecycle, queues
from pgqrs.models import PodIdentity, WorkerStatus
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.operator.api_server import ApiServer
    from tests.operator.conftest import Cluster
    from tests.support.postgres import PostgresServer

#: Longer ago than any deletion waits for a database.
LONG_AGO = timedelta(minutes=2)


def _deleted(cluster: Cluster, *, policy: str = "Delete", **metadata: Any) -> None:
    """Put a queue there whose deletion began long ago."""
    cluster.server.put("PgqrsQueue", "emails", spec={"deletionPolicy": policy}, metadata=metadata)
    cluster.server.delete("PgqrsQueue", "emails", at=datetime.now(UTC) - LONG_AGO)


def _is_gone(server: ApiServer) -> bool:
    return server.get("PgqrsQueue", "emails") is None


async def _no_secret(_cluster: Cluster, _dsn: str) -> None:
    pass


async def _forbidden(cluster: Cluster, dsn: str) -> None:
    cluster.server.put_secret(dsn)
    cluster.server.refusals["/secrets/pgqrs"] = 403


async def _no_database(cluster: Cluster, dsn: str) -> None:
    cluster.server.put_secret(dsn.replace("/test_", "/no_such_", 1))


async def _no_tables(cluster: Cluster, dsn: str) -> None:
    cluster.server.put_secret(dsn)
    async with pgqrs.Admin(dsn) as admin, admin.database.transaction() as transaction:
        await transaction.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


async def _no_schema(cluster: Cluster, dsn: str) -> None:
    cluster.server.put_secret(dsn)
    async with pgqrs.Admin(dsn) as admin, admin.database.transaction() as transaction:
        await transaction.execute("DROP SCHEMA public CASCADE")


@pytest.mark.parametrize("gone", [_no_secret, _forbidden, _no_database, _no_tables, _no_schema])
@pytest.mark.parametrize("policy", ["Delete", "Retain"])
async def test_a_deletion_ends_where_nothing_is_left(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, gone: Callable[..., Any], policy: str
) -> None:
    assert admin.database.dsn == dsn
    await gone(cluster, dsn)
    _deleted(cluster, policy=policy)
    async with cluster.operator():
        await cluster.eventually(lambda: _is_gone(cluster.server))
        await cluster.eventually(cluster.server.reasons)
    assert cluster.server.reasons() == ["LetGo"]
    assert ("deletionPolicy is Delete" in cluster.server.events[0]["message"]) is (policy == "Delete")


async def test_data_that_may_still_be_there_is_waited_for(cluster: Cluster) -> None:
    cluster.server.put_secret("postgresql://u:p@127.0.0.1:1/nothing")
    _deleted(cluster)
    async with cluster.operator():
        await cluster.eventually(lambda: cluster.server.reason("PgqrsQueue", "emails") == "DatabaseUnavailable")
        conditions = cluster.server.get("PgqrsQueue", "emails")["status"]["conditions"]  # type: ignore[index]
        assert "deletionPolicy to Retain" in conditions[0]["message"]
        assert "LetGo" not in cluster.server.reasons()
        cluster.server.change("PgqrsQueue", "emails", spec={"deletionPolicy": "Retain"})
        await cluster.eventually(lambda: _is_gone(cluster.server))


@pytest.mark.parametrize("refusal", [None, 403])
async def test_without_its_secret_a_queue_is_finished_with_the_last_address(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, refusal: int | None
) -> None:
    """A namespace that is deleted loses its Secrets first, or the right to read them."""
    cluster.server.put_secret(dsn)
    cluster.server.put("PgqrsQueue", "emails", spec={"deletionPolicy": "Delete"})
    async with cluster.operator():
        await cluster.eventually(lambda: cluster.server.reason("PgqrsQueue", "emails") == "InSync")
        if refusal is None:
            cluster.server.delete("Secret", "pgqrs")
        else:
            cluster.server.refusals["/secrets/pgqrs"] = refusal
        known = "SecretNotFound" if refusal is None else "SecretForbidden"
        await cluster.eventually(lambda: cluster.server.reason("PgqrsQueue", "emails") == known)
        cluster.server.delete("PgqrsQueue", "emails")
        await cluster.eventually(lambda: _is_gone(cluster.server))
    assert not await queues.listing(admin.database)
    assert "LetGo" not in cluster.server.reasons()


async def test_data_in_a_database_that_no_secret_names_and_nobody_reaches_is_let_go(
    cluster: Cluster, dsn: str, postgres: PostgresServer
) -> None:
    server = cluster.server
    async with Proxy(postgres.port) as proxy:
        server.put_secret(dsn.replace(f":{postgres.port}/", f":{proxy.port}/"))
        server.put("PgqrsQueue", "emails", spec={"deletionPolicy": "Delete"})
        async with cluster.operator():
            await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
            server.delete("Secret", "pgqrs")
            await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "SecretNotFound")
            proxy.server = ("127.0.0.1", 1)
            proxy.cut()
            server.delete("PgqrsQueue", "emails", at=datetime.now(UTC) - LONG_AGO)
            await cluster.eventually(lambda: _is_gone(server))
            await cluster.eventually(lambda: "LetGo" in server.reasons())


async def test_what_is_told_of_a_deletion_is_told_once(cluster: Cluster) -> None:
    """Another's finalizer keeps the resource after ours is off; and a patch may fail for a while."""
    server = cluster.server
    _deleted(cluster, finalizers=["pgqrs.io/finalizer", "example.org/other"])
    server.put("PgqrsWorker", "w", spec={"queueRef": {"name": "emails"}, "hostname": "h", "port": 1})
    server.change("PgqrsWorker", "w", metadata={"finalizers": ["pgqrs.io/finalizer", "example.org/other"]})
    server.delete("PgqrsWorker", "w", at=datetime.now(UTC) - LONG_AGO)
    server.refusals["/pgqrsqueues/emails"] = 500
    async with cluster.operator():
        await cluster.eventually(lambda: server.requests.count(("PATCH", _path("pgqrsqueues/emails"))) > 2)
        assert [event["involvedObject"]["name"] for event in server.events] == ["w"]
        del server.refusals["/pgqrsqueues/emails"]
        await cluster.eventually(lambda: len(server.events) == 2)
        for _ in range(3):
            cluster.metrics.turned_at = None
            cluster.store.changed.set()
            await cluster.eventually(lambda: cluster.metrics.turned_at)
    assert sorted(event["involvedObject"]["name"] for event in server.events) == ["emails", "w"]


def _path(end: str) -> str:
    return f"/apis/pgqrs.io/v1alpha1/namespaces/shop/{end}"


async def test_who_deletes_what_paused_a_living_pod_is_told_that_it_goes_on(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin
) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    uid = server.put_pod("web-1")["metadata"]["uid"]
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "WaitingForWorker")
        pod = PodIdentity(uid=uid, name="web-1", namespace="shop")
        row = await lifecycle.register(admin.database, "emails", hostname="web-1.shop", pod=pod)
        server.change("PgqrsWorker", "web-1", spec={"state": "Suspended"})
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "Suspended")
        assert await lifecycle.status(admin.database, row.id) is WorkerStatus.SUSPENDED
        server.delete("PgqrsWorker", "web-1")
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "web-1") == "Working")
        assert await lifecycle.status(admin.database, row.id) is WorkerStatus.READY
    (event,) = [event for event in server.events if event["reason"] == "Resumed"]
    assert (event["involvedObject"]["kind"], event["type"]) == ("Pod", "Warning")
    assert "said Suspended and was deleted" in event["message"]


async def test_a_pod_without_a_sidecar_is_told_of_once_however_often_the_operator_starts(cluster: Cluster) -> None:
    server = cluster.server
    pod = server.put_pod("web-1")
    server.change("Pod", "web-1", metadata={"annotations": None}, spec={"initContainers": []})
    for _ in range(2):
        server.requests.clear()
        async with cluster.operator():
            await cluster.eventually(lambda: ("POST", "/api/v1/namespaces/shop/events") in server.requests)
        assert b"pgqrs_operator_pods_without_sidecar 1.0" in cluster.metrics.text()
    assert [event["involvedObject"]["uid"] for event in server.events] == [pod["metadata"]["uid"]]
    assert server.reasons() == ["NotInjected"]


async def test_a_loop_that_does_not_end_holds_up_nobody(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last statement may take long; meanwhile others are assigned and told."""
    held = asyncio.Event()
    # Who waits for it waits longer than the test.
    monkeypatch.setattr("pgqrs_operator.controller._END_SECONDS", 1000.0)
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        close = pgqrs.database.Database.aclose

        async def slow(self: pgqrs.database.Database) -> None:
            await held.wait()
            await close(self)

        monkeypatch.setattr("pgqrs.database.Database.aclose", slow)
        server.put_secret("nonsense")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InvalidDsn")
        before = cluster.metrics.turned_at
        server.put("PgqrsQueue", "letters", namespace="other")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "letters", namespace="other") == "SecretNotFound")
        assert cluster.metrics.turned_at != before
        assert not held.is_set()
        held.set()
    assert admin is not None


async def test_what_waits_for_somebody_else_is_told_nothing(cluster: Cluster) -> None:
    server = cluster.server
    server.put("PgqrsQueue", "emails", metadata={"finalizers": ["example.org/other"]})
    server.delete("PgqrsQueue", "emails")
    server.put("PgqrsQueue", "letters")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "letters") == "SecretNotFound")
        cluster.metrics.turned_at = None
        cluster.store.changed.set()
        await cluster.eventually(lambda: cluster.metrics.turned_at)
    assert not server.reason("PgqrsQueue", "emails")
