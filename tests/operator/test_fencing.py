"""A process that is not the leader any more writes nothing, neither to the API server nor to a database."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pgqrs import errors, queues
from pgqrs.models import QueuePolicy
from pgqrs_operator.api import ApiError
from pgqrs_operator.controller import Controller
from pgqrs_operator.fencing import FencedDatabase, FencedKubernetes
from pgqrs_operator.names import QUEUES

if TYPE_CHECKING:
    import pgqrs
    from tests.operator.conftest import Cluster


@dataclass
class Gate:
    """Stands for the leadership."""

    open: bool = True

    def __call__(self) -> bool:
        return self.open


async def test_the_api_server_is_only_read(cluster: Cluster) -> None:
    gate = Gate()
    kubernetes = FencedKubernetes(cluster.kubernetes._client, gate)  # noqa: SLF001 - the same connection
    server = cluster.server
    uid = server.put("PgqrsQueue", "emails")["metadata"]["uid"]
    await kubernetes.patch_status(QUEUES, "shop", "emails", {"note": "1"})
    gate.open = False
    before = len(server.requests)
    for write in (
        kubernetes.patch_status(QUEUES, "shop", "emails", {"note": "2"}),
        kubernetes.patch_finalizers(QUEUES, "shop", "emails", version=1, finalizers=[]),
        kubernetes.create(QUEUES, "shop", {"metadata": {"name": "other"}}),
        kubernetes.delete(QUEUES, "shop", "emails", uid=uid),
        kubernetes.create_event("shop", {"metadata": {"name": "e"}}),
    ):
        with pytest.raises(ApiError, match="not the leader"):
            await write
    assert len(server.requests) == before
    assert len((await kubernetes.list_resources(QUEUES, "PgqrsQueue", None)).items) == 1


async def test_a_database_takes_no_statement(dsn: str) -> None:
    gate = Gate()
    async with FencedDatabase(dsn, may_write=gate, max_connections=1) as database:
        await queues.create(database, "emails", QueuePolicy())
        gate.open = False
        with pytest.raises(errors.DatabaseUnavailableError, match="not the leader"):
            await queues.create(database, "letters", QueuePolicy())
        with pytest.raises(errors.DatabaseUnavailableError, match="not the leader"):
            async with database.transaction():
                pytest.fail("a transaction began")
        gate.open = True
        # The one connection was given back each time.
        assert [queue.queue_name for queue in await queues.listing(database)] == ["emails"]


async def test_leadership_that_ends_while_a_connection_is_waited_for_counts(dsn: str) -> None:
    gate = Gate()
    async with FencedDatabase(dsn, may_write=gate, max_connections=1) as database:
        async with database.connection():
            waits = asyncio.create_task(queues.create(database, "emails", QueuePolicy()))
            # It asks for a connection while it may.
            for _ in range(10):
                await asyncio.sleep(0)
            gate.open = False
        with pytest.raises(errors.DatabaseUnavailableError, match="not the leader"):
            await waits
        gate.open = True
        assert not await queues.listing(database)


async def test_a_controller_without_leadership_changes_nothing_anywhere(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin
) -> None:
    gate, server = Gate(), cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    kubernetes = FencedKubernetes(cluster.kubernetes._client, gate)  # noqa: SLF001 - the same connection
    await cluster.seen()
    controller = Controller(kubernetes, cluster.store, cluster.settings, cluster.metrics, may_write=gate)
    task = asyncio.create_task(controller.run())
    try:
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        gate.open = False
        written = sum(method != "GET" for method, _ in server.requests)
        server.change("PgqrsQueue", "emails", spec={"paused": True}, metadata={"generation": 2})
        await cluster.eventually(lambda: _failures(cluster, admin))
        assert not task.done()
        assert sum(method != "GET" for method, _ in server.requests) == written
        assert not (await queues.get(admin.database, "emails")).policy.paused
        gate.open = True
        await cluster.eventually(
            lambda: server.reason("PgqrsQueue", "emails") == "InSync" and _generation(cluster) == 2
        )
        assert (await queues.get(admin.database, "emails")).policy.paused
    finally:
        task.cancel()
        await asyncio.wait([task])


def _failures(cluster: Cluster, admin: pgqrs.Admin) -> float:
    """Count the rounds that were refused."""
    labels = {"database": admin.database.where}
    return cluster.metrics.registry.get_sample_value("pgqrs_operator_database_failures_total", labels) or 0.0


def _generation(cluster: Cluster) -> int:
    found = cluster.server.get("PgqrsQueue", "emails")
    assert found is not None
    generation: int = found["status"]["observedGeneration"]
    return generation
