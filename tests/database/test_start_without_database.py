"""A worker that is told to waits at its start for a database that is not there yet."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import pgqrs
from pgqrs import worker
from tests.support.postgres import free_port
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUEUE = "emails"


@pytest.fixture
async def nothing() -> AsyncIterator[Proxy]:
    """A port that leads to no server yet."""
    async with Proxy(free_port()) as proxy:
        yield proxy


def _by_way_of(proxy: Proxy, dsn: str) -> str:
    return dsn.replace(f":{urlsplit(dsn).port}/", f":{proxy.port}/")


async def _refused(caplog: pytest.LogCaptureFixture) -> None:
    """Wait until a worker has been refused once and waits."""
    async with asyncio.timeout(20):
        while "no database yet" not in caplog.text:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("told", [None, "false"])
async def test_a_worker_that_is_not_told_to_fails(
    dsn: str, nothing: Proxy, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    if told is not None:
        monkeypatch.setenv("PGQRS_START_WITHOUT_DATABASE", told)
    consumer = pgqrs.Consumer(_by_way_of(nothing, dsn), QUEUE)
    with pytest.raises(pgqrs.DatabaseUnavailableError):
        await consumer.start()
    await consumer.aclose()


async def test_a_worker_registers_when_the_database_comes(
    dsn: str,
    admin: pgqrs.Admin,
    nothing: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await admin.create_queue(QUEUE)
    monkeypatch.setenv("PGQRS_START_WITHOUT_DATABASE", "true")
    consumer = pgqrs.Consumer(_by_way_of(nothing, dsn), QUEUE)
    starting = asyncio.create_task(consumer.start())
    await _refused(caplog)
    assert not starting.done()
    port = urlsplit(dsn).port
    assert port is not None
    nothing.server = ("127.0.0.1", port)
    async with asyncio.timeout(20):
        worker_id = await starting
    workers = await admin.get_workers()
    assert [worker.id for worker in await workers.list()] == [worker_id]
    await consumer.aclose()


async def test_a_worker_that_waits_can_be_closed(
    dsn: str, nothing: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hour = timedelta(hours=1)
    monkeypatch.setattr(worker, "_DATABASE_BACKOFF", pgqrs.Backoff(first=hour, most=hour))
    monkeypatch.setenv("PGQRS_START_WITHOUT_DATABASE", "true")
    consumer = pgqrs.Consumer(_by_way_of(nothing, dsn), QUEUE)
    starting = asyncio.create_task(consumer.start())
    await _refused(caplog)
    async with asyncio.timeout(20):
        await consumer.aclose()
    with pytest.raises(pgqrs.WorkerNotReadyError):
        await starting
