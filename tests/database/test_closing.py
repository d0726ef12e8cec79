"""Closing a worker: at any moment, more than once, cancelled, or without a database; nothing is left running."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

import pgqrs
from pgqrs.models import WorkerStatus
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

QUEUE = "emails"
#: What a close may take at most: a dead connection is noticed in 10 seconds, and the pool's end takes 7 more.
BOUND_SECONDS = 25


async def eventually(look: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await look():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Whatever the block starts has ended when it ends, or does so by itself at once."""
    before = asyncio.all_tasks()
    yield

    async def over() -> bool:
        return asyncio.all_tasks() <= before

    await eventually(over)


@pytest.fixture
async def queue(admin: pgqrs.Admin) -> str:
    return (await admin.create_queue(QUEUE)).queue_name


@pytest.fixture
async def observer(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


@asynccontextmanager
async def through_a_proxy(dsn: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server, and the same database by way of it; its tasks end with the block."""
    port = urlsplit(dsn).port
    assert port is not None
    async with Proxy(port) as proxy:
        yield proxy, dsn.replace(f":{port}/", f":{proxy.port}/")


async def states(observer: asyncpg.Connection) -> list[str]:
    return [row["state"] for row in await observer.fetch("SELECT status::text AS state FROM pgqrs_workers")]


async def waits_for_a_lock(observer: asyncpg.Connection) -> bool:
    query = """SELECT EXISTS (
        SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    )"""
    return bool(await observer.fetchval(query))


async def outcome(call: asyncio.Task[object]) -> BaseException | None:
    await asyncio.wait([call], timeout=BOUND_SECONDS)
    return call.exception()


async def test_a_close_beside_the_first_call_leaves_no_row_and_no_heartbeats(
    admin: pgqrs.Admin, queue: str, observer: asyncpg.Connection
) -> None:
    """Registration is held up at its first statement, so the close comes in the middle of it."""
    async with nothing_left():
        consumer = pgqrs.Consumer(admin, queue)
        async with observer.transaction():
            await observer.execute("LOCK TABLE pgqrs_workers")
            call = asyncio.create_task(consumer.dequeue())
            await eventually(lambda: waits_for_a_lock(observer))
            closing = asyncio.create_task(consumer.aclose())
            await asyncio.sleep(0)
            assert not closing.done()
        async with asyncio.timeout(BOUND_SECONDS):
            await closing
        assert isinstance(await outcome(call), pgqrs.WorkerNotReadyError)
        assert await states(observer) == ["stopped"]
        with pytest.raises(pgqrs.WorkerNotReadyError, match="closed"):
            await consumer.start()


async def test_a_first_call_undoes_itself_when_whoever_closed_was_cancelled(
    admin: pgqrs.Admin, queue: str, observer: asyncpg.Connection
) -> None:
    async with nothing_left():
        consumer = pgqrs.Consumer(admin, queue)
        async with observer.transaction():
            await observer.execute("LOCK TABLE pgqrs_workers")
            call = asyncio.create_task(consumer.start())
            await eventually(lambda: waits_for_a_lock(observer))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await consumer.aclose()
        assert isinstance(await outcome(call), pgqrs.WorkerNotReadyError)
        assert await states(observer) == ["stopped"]


@pytest.mark.parametrize("shared", [True, False])
async def test_closing_twice_and_at_once_is_closing(
    dsn: str, admin: pgqrs.Admin, queue: str, observer: asyncpg.Connection, *, shared: bool
) -> None:
    async with nothing_left():
        consumer = pgqrs.Consumer(admin if shared else dsn, queue)
        await consumer.start()
        async with asyncio.timeout(BOUND_SECONDS):
            await asyncio.gather(*(consumer.aclose() for _ in range(3)))
            await consumer.aclose()
        assert await states(observer) == ["stopped"]
        assert await (await admin.get_workers()).count() == 1, "what is shared still serves others"


async def test_closing_what_was_never_used_opens_nothing(dsn: str, queue: str, observer: asyncpg.Connection) -> None:
    async with nothing_left():
        consumer = pgqrs.Consumer(dsn, queue)
        await consumer.aclose()
    assert await states(observer) == []


async def test_a_worker_whose_admin_was_closed_before_ends_without_an_error(
    dsn: str, queue: str, observer: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with nothing_left():
        parent = pgqrs.Admin(dsn)
        consumer = pgqrs.Consumer(parent, queue)
        await consumer.start()
        await parent.aclose()
        await consumer.aclose()
        await consumer.aclose()
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.message, record.__dict__["worker_id"]) for record in warnings] == [
        ("row not stopped", consumer.worker_id)
    ]
    assert await states(observer) == ["ready"], "it is the reaper's now"


@pytest.mark.parametrize("shared", [True, False])
async def test_a_close_that_is_cancelled_still_gives_the_connections_back(
    dsn: str, admin: pgqrs.Admin, queue: str, observer: asyncpg.Connection, *, shared: bool
) -> None:
    async with nothing_left():
        consumer = pgqrs.Consumer(admin if shared else dsn, queue)
        await consumer.start()
        async with observer.transaction():
            await observer.execute("SELECT FROM pgqrs_workers FOR UPDATE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await consumer.aclose()

            async def given_up() -> bool:
                return not await waits_for_a_lock(observer)

            await eventually(given_up)
        if not shared:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
            assert await observer.fetchval(query, f"pgqrs {queue}") == 0
        # Once more, and it does what it could not do before; only where the connections are still there.
        await consumer.aclose()
        assert await states(observer) == ["stopped" if shared else "ready"]


async def test_a_close_in_the_middle_of_a_dequeue_frees_what_that_leases(
    admin: pgqrs.Admin, queue: str, observer: asyncpg.Connection
) -> None:
    async with nothing_left():
        async with pgqrs.Producer(admin, queue) as producer:
            await producer.enqueue("x")
        consumer = pgqrs.Consumer(admin, queue)
        await consumer.start()
        await asyncio.gather(consumer.dequeue(), consumer.aclose(), return_exceptions=True)
        assert await states(observer) == ["stopped", "stopped"]
        assert (await admin.queue_counts(queue)).ready == 1


async def test_an_iteration_ends_when_its_consumer_is_closed(admin: pgqrs.Admin, queue: str) -> None:
    async with nothing_left():
        consumer = pgqrs.Consumer(admin, queue)
        await consumer.start()

        async def read() -> list[object]:
            return [message.payload async for message in consumer]

        reading = asyncio.create_task(read())

        async def asked() -> bool:
            return bool(await admin.database.fetch_value("notify.mark", consumer.worker_id)) and not reading.done()

        await eventually(asked)
        await consumer.aclose()
        async with asyncio.timeout(BOUND_SECONDS):
            assert await reading == []
        # The listener is the admin's, which stays open.
        await admin.database.listener.aclose()


@pytest.mark.parametrize("shared", [True, False])
async def test_a_close_without_a_database_ends_in_time(
    dsn: str, queue: str, observer: asyncpg.Connection, caplog: pytest.LogCaptureFixture, *, shared: bool
) -> None:
    async with nothing_left(), through_a_proxy(dsn) as (proxy, proxied):
        parent = pgqrs.Admin(proxied)
        consumer = pgqrs.Consumer(parent if shared else proxied, queue)
        await consumer.start()
        proxy.swallow()
        async with asyncio.timeout(BOUND_SECONDS):
            await consumer.aclose()
            await parent.aclose()
    assert "row not stopped" in [record.message for record in caplog.records]
    assert await states(observer) == ["ready"]


async def test_a_close_beside_a_first_call_that_gets_no_answer_ends_in_time(
    dsn: str, queue: str, observer: asyncpg.Connection
) -> None:
    async with nothing_left(), through_a_proxy(dsn) as (proxy, proxied):
        proxy.swallow()
        consumer = pgqrs.Consumer(proxied, queue)
        call = asyncio.create_task(consumer.start())

        async def asked() -> bool:
            return proxy.accepted > 0

        await eventually(asked)
        async with asyncio.timeout(BOUND_SECONDS):
            await consumer.aclose()
        assert isinstance(await outcome(call), pgqrs.PgqrsError)
    assert await states(observer) == []


async def test_a_close_does_not_wait_for_a_sidecar_that_gives_no_answer(
    admin: pgqrs.Admin, queue: str, observer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nothing_left(), Proxy(9) as silent:
        silent.swallow()
        monkeypatch.setenv("PGQRS_SIDECAR", f"127.0.0.1:{silent.port}")
        # The fault is the answer that never comes; a close that waits for it would not be bounded here.
        monkeypatch.setattr("pgqrs.session._WELCOME_SECONDS", 3600.0)
        consumer = pgqrs.Consumer(admin, queue)
        call = asyncio.create_task(consumer.start())

        async def asked() -> bool:
            return silent.accepted > 0

        await eventually(asked)
        async with asyncio.timeout(BOUND_SECONDS):
            await asyncio.gather(consumer.aclose(), consumer.aclose())
        assert isinstance(await outcome(call), pgqrs.WorkerNotReadyError)
        assert await states(observer) == []


async def test_heartbeats_go_on_while_a_sidecar_gives_no_answer(
    admin: pgqrs.Admin, queue: str, observer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nothing_left(), Proxy(9) as silent:
        monkeypatch.setenv("PGQRS_SIDECAR", f"127.0.0.1:{silent.port}")
        monkeypatch.setattr("pgqrs.worker._SIDECAR_SECONDS", 0.0)
        monkeypatch.setattr("pgqrs.worker._HEARTBEAT_SECONDS", 0.05)
        monkeypatch.setattr("pgqrs.session._WELCOME_SECONDS", 3600.0)
        async with pgqrs.Consumer(admin, queue) as consumer:
            silent.swallow()

            async def held() -> bool:
                return any(link.swallowing for link in silent.links)

            await eventually(held)
            await observer.execute("UPDATE pgqrs_workers SET heartbeat_at = '2000-01-01'")

            async def beaten() -> bool:
                return bool(await observer.fetchval("SELECT heartbeat_at > '2000-01-02' FROM pgqrs_workers"))

            await eventually(beaten)
            assert await consumer.status() is WorkerStatus.READY
