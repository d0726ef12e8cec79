"""Databases and Secrets that come, change and go; and one database that does not answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

import pgqrs
from pgqrs import fleet, queues
from pgqrs.errors import DatabaseUnavailableError
from pgqrs_operator import reports, secrets
from pgqrs_operator.secrets import Addresses, SecretKey
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from typing import Any

    from tests.operator.conftest import Cluster
    from tests.support.postgres import PostgresServer


async def _names(dsn: str) -> list[str]:
    async with pgqrs.Admin(dsn) as admin:
        return [one.queue_name for one in await queues.listing(admin.database)]


async def test_a_secret_may_come_late_go_and_come_back(cluster: Cluster, empty_dsn: str) -> None:
    server = cluster.server
    server.put("PgqrsQueue", "emails")
    spec = {"queueRef": {"name": "emails"}, "hostname": "h", "port": 1}
    server.put("PgqrsWorker", "w", spec=spec)
    async with cluster.operator():
        for _ in range(2):
            await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "SecretNotFound")
            await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "SecretNotFound")
            server.put_secret(empty_dsn)
            await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
            await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "WaitingForWorker")
            server.delete("Secret", "pgqrs")
    assert await _names(empty_dsn) == ["emails"]


async def test_a_secret_that_is_rotated_leads_to_what_it_says_now(cluster: Cluster, dsn: str, empty_dsn: str) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        server.put_secret(empty_dsn)
        moved = urlsplit(empty_dsn).path.lstrip("/")
        await cluster.eventually(lambda: f'/{moved}"}} 1.0' in _up(cluster))
        # The one before is left.
        await cluster.eventually(lambda: _up(cluster).count(" 1.0") == 1)
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
    assert await _names(empty_dsn) == await _names(dsn) == ["emails"]


def _up(cluster: Cluster) -> str:
    """Give the samples that say which databases answer."""
    lines = cluster.metrics.text().decode().splitlines()
    return "\n".join(line for line in lines if line.startswith("pgqrs_operator_database_up{"))


async def test_a_database_may_go_and_come_back_empty(
    cluster: Cluster, empty_dsn: str, postgres: PostgresServer
) -> None:
    server = cluster.server
    name = urlsplit(empty_dsn).path.lstrip("/")
    server.put_secret(empty_dsn)
    server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await _run(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "DatabaseNotFound")
        await _run(postgres.dsn(), f"CREATE DATABASE {name}")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
    assert await _names(empty_dsn) == ["emails"]


async def _run(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_database_that_does_not_answer_holds_up_no_other(
    cluster: Cluster, dsn: str, empty_dsn: str, postgres: PostgresServer
) -> None:
    server = cluster.server
    async with Proxy(postgres.port) as proxy:
        server.put_secret(dsn.replace(f":{postgres.port}/", f":{proxy.port}/"), namespace="slow")
        server.put_secret(empty_dsn, namespace="quick")
        for namespace in ("slow", "quick"):
            server.put("PgqrsQueue", "emails", namespace=namespace)
        async with cluster.operator():
            for namespace in ("slow", "quick"):
                await _in_sync(cluster, "emails", namespace)
            proxy.swallow()
            server.change("PgqrsQueue", "emails", namespace="slow", spec={"paused": True}, metadata={"generation": 2})
            for name in ("a", "b", "c"):
                server.put("PgqrsQueue", name, namespace="quick")
                await _in_sync(cluster, name, "quick")
            # Nothing is known of the slow one yet: that would take several of the quick one's rounds.
            assert server.reason("PgqrsQueue", "emails", namespace="slow") == "InSync"
            await cluster.eventually(
                lambda: server.reason("PgqrsQueue", "emails", namespace="slow") == "DatabaseUnavailable"
            )
            proxy.heal()
            await _in_sync(cluster, "emails", "slow")
    async with pgqrs.Admin(dsn) as admin:
        assert (await queues.get(admin.database, "emails")).policy.paused


async def _in_sync(cluster: Cluster, name: str, namespace: str) -> None:
    await cluster.eventually(lambda: cluster.server.reason("PgqrsQueue", name, namespace=namespace) == "InSync")


async def test_what_passes_at_once_changes_no_status(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0
    observe = fleet.observe

    async def failing(*args: Any, **more: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise DatabaseUnavailableError
        return await observe(*args, **more)

    monkeypatch.setattr("pgqrs.fleet.observe", failing)
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        for generation in (2, 3):
            failures = 1
            await _change(cluster, paused=generation == 2, generation=generation)
            assert not failures
        assert "DatabaseUnavailable" not in server.reasons()
        failures = 2
        await _change(cluster, paused=True, generation=4)
        await cluster.eventually(lambda: "DatabaseUnavailable" in server.reasons())
    assert (await queues.get(admin.database, "emails")).policy.paused


async def _change(cluster: Cluster, *, paused: bool, generation: int) -> None:
    """Change the queue, and wait until that is true."""
    server = cluster.server

    def is_true() -> bool:
        body = server.get("PgqrsQueue", "emails")
        assert body is not None
        return body["status"]["observedGeneration"] == generation and server.reason("PgqrsQueue", "emails") == "InSync"

    server.change("PgqrsQueue", "emails", spec={"paused": paused}, metadata={"generation": generation})
    await cluster.eventually(is_true)


async def test_where_much_is_to_be_written_it_is_written_over_several_rounds(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_PARALLEL", 2)
    monkeypatch.setattr(reports, "_WRITING_SECONDS", 0.0)
    rounds = 0
    observe = fleet.observe

    async def observed(*args: Any, **more: Any) -> Any:
        nonlocal rounds
        rounds += 1
        return await observe(*args, **more)

    monkeypatch.setattr("pgqrs.fleet.observe", observed)
    server = cluster.server
    server.put_secret(dsn)
    names = [f"q{number}" for number in range(6)]
    for name in names:
        server.put("PgqrsQueue", name, metadata={"finalizers": []})
    async with cluster.operator():
        await cluster.eventually(lambda: all(server.reason("PgqrsQueue", name) == "InSync" for name in names))
    assert rounds >= len(names) // 2
    assert len(await queues.listing(admin.database)) == len(names)


async def test_what_is_left_out_for_want_of_time_is_not_begun(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_PARALLEL", 2)
    begun: list[int] = []

    async def write(number: int) -> None:
        begun.append(number)

    reporter = reports.Reporter(cluster.kubernetes, cluster.store)
    assert await reporter.in_time(write(number) for number in range(5))
    assert begun == [0, 1, 2, 3, 4]
    monkeypatch.setattr(reports, "_WRITING_SECONDS", -1.0)
    assert not await reporter.in_time(write(number) for number in range(5, 10))
    assert begun == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("many", "again"), [(150, True), (0.0001, False)])
async def test_many_secrets_are_read_less_often(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, many: float, *, again: bool
) -> None:
    monkeypatch.setattr(secrets, "_FRESH_SECONDS", 0.01)
    monkeypatch.setattr(secrets, "_MANY", many)
    keys = {SecretKey(f"n{number}", "pgqrs", "dsn") for number in range(3)}
    for key in keys:
        cluster.server.put_secret("postgresql://u:p@h/d", namespace=key.namespace)
    addresses = Addresses(cluster.kubernetes)
    await addresses.refresh(keys)
    await asyncio.sleep(0.02)
    before = len(cluster.server.requests)
    await addresses.refresh(keys)
    assert (len(cluster.server.requests) > before) is again
