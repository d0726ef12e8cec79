"""Idle consumers: they sleep, are woken by what is sent, and never depend on being woken."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

import pgqrs
from pgqrs import listener
from pgqrs.database import Database
from tests.support.pgbouncer import PgBouncer
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.postgres import PostgresServer

QUEUE = "emails"


async def eventually(look: Callable[[], object | Awaitable[object]], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while True:
            seen = look()
            if await seen if isinstance(seen, asyncio.Future | asyncio.Task) or hasattr(seen, "__await__") else seen:
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def producer(admin: pgqrs.Admin) -> AsyncIterator[pgqrs.Producer]:
    await admin.create_queue(QUEUE)
    async with pgqrs.Producer(admin, QUEUE) as opened:
        yield opened


@pytest.fixture
async def observer(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


class Reader:
    """A consumer in its own loop `async for`, and what it received."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.received: list[object] = []


@asynccontextmanager
async def reading(dsn: str) -> AsyncIterator[Reader]:
    """Run a consumer until the block ends."""
    async with pgqrs.Admin(dsn) as admin, pgqrs.Consumer(admin, QUEUE) as consumer:
        reader = Reader(admin.database)

        async def read() -> None:
            async for message in consumer:
                reader.received.append(message.payload)
                await consumer.archive(message.id)

        task = asyncio.create_task(read())
        yield reader
        assert not task.done(), "nothing that a test does to it may end it"
        task.cancel()
        await asyncio.wait([task])


async def is_waited_for(observer: asyncpg.Connection) -> bool:
    return bool(await observer.fetchval("SELECT idle_until > now() FROM pgqrs_queues"))


async def sleeping(waiter: listener.Waiter, observer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until this one would be told, and let it ask so seldom that only being told can wake it."""

    async def marked() -> bool:
        await waiter.wait(asyncio.Event())
        return await is_waited_for(observer)

    await eventually(marked)
    monkeypatch.setattr(listener, "_FIRST_SECONDS", 1000.0)
    monkeypatch.setattr(listener, "_LAST_SECONDS", 1000.0)


@pytest.mark.parametrize("payloads", [["one"], ["one", "two"]])
async def test_an_idle_consumer_is_woken_by_what_is_sent(
    admin: pgqrs.Admin,
    producer: pgqrs.Producer,
    observer: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    payloads: list[str],
) -> None:
    async with pgqrs.Consumer(admin, QUEUE) as consumer:
        waiter = listener.Waiter(admin.database.listener, consumer.worker_id)
        await sleeping(waiter, observer, monkeypatch)
        waiting = asyncio.create_task(waiter.wait(asyncio.Event()))
        await producer.enqueue_batch(payloads)
        async with asyncio.timeout(20):
            await waiting
        assert [message.payload for message in await consumer.dequeue(5)] == payloads
        waiter.close()


async def test_a_consumer_that_always_finds_something_after_a_short_wait_listens_too(
    dsn: str, producer: pgqrs.Producer
) -> None:
    """Otherwise a steady trickle from the start on would be met by polling for ever."""

    async def trickle() -> None:
        while True:
            await producer.enqueue({})
            # Less than the time until a consumer asks again, so that it never asks in vain.
            await asyncio.sleep(0.05)

    task = asyncio.create_task(trickle())
    try:
        async with reading(dsn) as reader:
            await eventually(lambda: reader.db.listener.hears)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_an_idle_consumer_is_woken_by_a_drain(
    admin: pgqrs.Admin, producer: pgqrs.Producer, observer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pgqrs.Consumer(admin, producer.queue) as consumer:
        waiter = listener.Waiter(admin.database.listener, consumer.worker_id)
        await sleeping(waiter, observer, monkeypatch)
        ended = asyncio.Event()
        waiting = asyncio.create_task(waiter.wait(ended))
        ended.set()
        async with asyncio.timeout(20):
            await waiting
        waiter.close()


async def test_sending_tells_nobody_where_nobody_waits(producer: pgqrs.Producer, observer: asyncpg.Connection) -> None:
    told: list[object] = []
    await observer.add_listener(listener.CHANNEL, lambda *said: told.append(said[3]))
    await producer.enqueue_batch([1, 2])
    await observer.execute("UPDATE pgqrs_queues SET idle_until = now() - interval '1 second'")
    await producer.enqueue(3)
    await observer.execute("UPDATE pgqrs_queues SET idle_until = now() + interval '1 hour'")
    await producer.enqueue(4, delay=timedelta(seconds=1))
    assert told == []
    await producer.enqueue_batch([5, 6, 7])
    await eventually(lambda: told)
    # What was told before would have come before; a batch is told once.
    assert told == [f'"public" {await observer.fetchval("SELECT id FROM pgqrs_queues")}']


async def test_whoever_has_work_all_the_time_takes_the_mark_off(
    dsn: str, producer: pgqrs.Producer, observer: asyncpg.Connection
) -> None:
    async with pgqrs.Admin(dsn) as admin, pgqrs.Consumer(admin, QUEUE) as consumer:
        ended = asyncio.Event()
        waiter = listener.Waiter(admin.database.listener, consumer.worker_id)

        async def marked() -> bool:
            await waiter.wait(ended)
            return await is_waited_for(observer)

        await eventually(marked)
        await producer.enqueue(1)
        assert len(await consumer.dequeue()) == 1
        waiter.found()
        assert await is_waited_for(observer), (
            "a message now and then leaves the mark, or the next one is told to nobody"
        )

        async def unmarked() -> bool:
            # There is always work, round after round; and not only run out.
            waiter.found()
            return bool(await observer.fetchval("SELECT idle_until IS NULL FROM pgqrs_queues"))

        await eventually(unmarked)
        waiter.close()


async def test_a_paused_worker_marks_nothing(dsn: str, producer: pgqrs.Producer, observer: asyncpg.Connection) -> None:
    async with pgqrs.Admin(dsn) as admin, pgqrs.Consumer(admin, producer.queue) as consumer:
        ear = admin.database.listener
        await consumer.suspend()
        assert await ear.mark(consumer.worker_id, None) is None
        assert not await is_waited_for(observer)


async def test_what_nobody_tells_is_received_all_the_same(
    dsn: str, producer: pgqrs.Producer, observer: asyncpg.Connection
) -> None:
    """Delayed, released, expired, and sent by clients that do not tell."""
    await producer.enqueue("expired")
    async with pgqrs.Consumer(dsn, QUEUE) as other, reading(dsn) as reader:
        await eventually(lambda: reader.received == ["expired"])
        await eventually(lambda: reader.db.listener.hears)
        await producer.enqueue("delayed", delay=timedelta(milliseconds=300))
        await eventually(lambda: reader.received[1:] == ["delayed"])
        await observer.execute(
            "INSERT INTO pgqrs_messages (queue_id, payload) SELECT id, to_jsonb('upstream'::text) FROM pgqrs_queues"
        )
        await eventually(lambda: reader.received[2:] == ["upstream"])
        await observer.execute(
            "INSERT INTO pgqrs_messages (queue_id, payload, vt, consumer_worker_id) "
            "SELECT id, to_jsonb('lost'::text), now() + interval '300 ms', $1 FROM pgqrs_queues",
            other.worker_id,
        )
        await eventually(lambda: reader.received[3:] == ["lost"])


async def test_a_listener_that_died_heals_and_nothing_is_missed_meanwhile(
    dsn: str, postgres: PostgresServer, producer: pgqrs.Producer
) -> None:
    async with Proxy(postgres.port) as proxy, reading(dsn.replace(f":{postgres.port}/", f":{proxy.port}/")) as reader:
        ear = reader.db.listener
        await eventually(lambda: ear.hears)
        proxy.cut()
        await eventually(lambda: not ear.hears)
        await producer.enqueue("while deaf")
        await eventually(lambda: reader.received == ["while deaf"])
        await eventually(lambda: ear.hears)


async def test_a_listener_on_a_dead_line_is_noticed(
    dsn: str, postgres: PostgresServer, producer: pgqrs.Producer
) -> None:
    async with Proxy(postgres.port) as proxy:
        db = Database(dsn.replace(f":{postgres.port}/", f":{proxy.port}/"))
        db.listener.want()
        await eventually(lambda: db.listener.hears)
        for link in list(proxy.links):
            link.swallow()
        await eventually(lambda: not db.listener.hears, within=10)
        async with asyncio.timeout(10):
            await db.aclose()
    assert producer.worker_id


async def test_a_listener_that_was_closed_stays_closed(dsn: str, producer: pgqrs.Producer) -> None:
    async with pgqrs.Admin(dsn) as admin, pgqrs.Consumer(admin, producer.queue) as consumer:
        ear = admin.database.listener
        waiter = listener.Waiter(ear, consumer.worker_id)
        while not ear.hears:
            await waiter.wait(asyncio.Event())
        await ear.aclose()
        for _ in range(3):
            await waiter.wait(asyncio.Event())
        # There is work, so the mark would be taken off.
        waiter.found()
        assert not ear.hears
        assert {"pgqrs-listener", "pgqrs-unmark"}.isdisjoint(task.get_name() for task in asyncio.all_tasks())


async def test_a_listener_does_not_try_again_what_only_another_setting_could_change(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pgqrs.listener")
    async with Database(f"{dsn}?sslmode=sometimes") as db:
        db.listener.want()
        (running,) = (task for task in asyncio.all_tasks() if task.get_name() == "pgqrs-listener")
        async with asyncio.timeout(20):
            await running
    assert [record.message for record in caplog.records] == ["not listening"]


async def test_behind_a_pooler_consumers_poll(
    dsn: str, postgres: PostgresServer, producer: pgqrs.Producer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pgqrs.listener")
    bouncer = PgBouncer(postgres)
    bouncer.start()
    try:
        async with reading(bouncer.dsn(urlsplit(dsn).path.lstrip("/"))) as reader:
            await eventually(lambda: "polling instead" in caplog.text)
            assert not reader.db.listener.hears
            await producer.enqueue("told to nobody")
            await eventually(lambda: reader.received == ["told to nobody"])
    finally:
        bouncer.stop()


async def test_the_connection_for_listening_is_only_there_while_somebody_waits(
    dsn: str, producer: pgqrs.Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_UNUSED_SECONDS", 0.0)
    async with pgqrs.Admin(dsn) as admin:
        ear = admin.database.listener
        assert not ear.hears
        heard: list[bool] = []
        monkeypatch.setattr(ear, "_wake", lambda: heard.append(ear.hears))
        ear.want()
        await eventually(lambda: heard)
        assert not ear.hears
        assert ear._task is not None  # noqa: SLF001 - whether it ended is seen nowhere else
        await eventually(ear._task.done)  # noqa: SLF001
    assert producer.worker_id
