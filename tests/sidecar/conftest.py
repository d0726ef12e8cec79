"""A pod without Kubernetes, and the database behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

import pgqrs
from tests.sidecar.processes import POD_UID, QUEUE, Pod
from tests.support.postgres import PostgresServer
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Observer:
    """Looks at the tables from outside."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self._dsn)
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close()

    async def rows(self, *, live: bool = True) -> list[asyncpg.Record]:
        """The pod's rows, by default those that are not stopped."""
        found = await self.fetch(
            "SELECT *, status::text AS state FROM pgqrs_workers WHERE pod_uid = $1 ORDER BY id", POD_UID
        )
        return [row for row in found if row["state"] != "stopped" or not live]

    async def row(self, worker_id: int) -> asyncpg.Record:
        return (await self.fetch("SELECT *, status::text AS state FROM pgqrs_workers WHERE id = $1", worker_id))[0]

    async def state(self, worker_id: int) -> str:
        return str((await self.row(worker_id))["state"])

    async def message(self, message_id: int) -> asyncpg.Record:
        return (await self.fetch("SELECT * FROM pgqrs_messages WHERE id = $1", message_id))[0]

    async def lease(self, worker_id: int) -> int:
        """Lease one new message to a worker, and give the message's id."""
        return int(
            (
                await self.fetch(
                    "INSERT INTO pgqrs_messages (queue_id, payload, vt, read_ct, consumer_worker_id)"
                    " SELECT queue_id, '{}', now() + interval '1 hour', 1, id FROM pgqrs_workers WHERE id = $1"
                    " RETURNING id",
                    worker_id,
                )
            )[0]["id"]
        )


@pytest.fixture
async def database(dsn: str) -> Observer:
    """The fresh database with the pod's queue in it."""
    async with pgqrs.Admin(dsn) as admin:
        await admin.create_queue(QUEUE)
    return Observer(dsn)


@pytest.fixture
async def pod(dsn: str, database: Observer) -> AsyncIterator[Pod]:
    """A pod whose processes end with the test."""
    assert database
    pod = Pod(dsn)
    yield pod
    await pod.destroy()


@pytest.fixture
async def producer(dsn: str, database: Observer) -> AsyncIterator[pgqrs.Producer]:
    """Sends to the pod's queue."""
    assert database
    async with pgqrs.Producer(dsn, QUEUE, "producer", 1) as producer:
        yield producer


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that this test may stop."""
    server = PostgresServer()
    server.create()
    yield server
    server.destroy()


@pytest.fixture
async def own_pod(own_postgres: PostgresServer) -> AsyncIterator[Pod]:
    """A pod on that server."""
    async with pgqrs.Admin(own_postgres.dsn()) as admin:
        await admin.install()
        await admin.create_queue(QUEUE)
    pod = Pod(own_postgres.dsn())
    yield pod
    await pod.destroy()


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    """Stands between the far pod and its database."""
    async with Proxy(postgres.port) as opened:
        yield opened


@pytest.fixture
async def far_pod(dsn: str, database: Observer, proxy: Proxy) -> AsyncIterator[Pod]:
    """A pod whose database is behind the proxy, with a drain that is short enough to be waited for."""
    assert database
    pod = Pod(dsn.replace(f":{urlsplit(dsn).port}/", f":{proxy.port}/"), env={"PGQRS_DRAIN_SECONDS": "2"})
    yield pod
    await pod.destroy()
