"""Messages: sent once, delivered until they are done, in order, to one owner at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer


@pytest.fixture
async def producer(admin: pgqrs.Admin) -> AsyncIterator[pgqrs.Producer]:
    await admin.create_queue("emails", pgqrs.QueuePolicy(read_limit=3))
    async with pgqrs.Producer(admin, "emails") as opened:
        yield opened


@pytest.fixture
async def consumer(admin: pgqrs.Admin, producer: pgqrs.Producer) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(admin, producer.queue) as opened:
        yield opened


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


async def test_messages_come_back_in_order_and_only_once(producer: pgqrs.Producer, consumer: pgqrs.Consumer) -> None:
    sent = await producer.enqueue_batch(list(range(100)))
    received = await consumer.dequeue(60) + await consumer.dequeue(60)
    assert [message.id for message in received] == sent
    assert [message.payload for message in received] == list(range(100))
    assert await consumer.dequeue() == []
    assert await consumer.archive_many([message.id for message in received]) == [True] * 100
    assert await consumer.archive(sent[0]) is False, "done twice is done once"


@pytest.mark.parametrize("payload", [None, True, 0, -1.5, "", "ü\n", [], {"a": {"b": [1, None]}}])
async def test_any_json_survives(producer: pgqrs.Producer, consumer: pgqrs.Consumer, payload: object) -> None:
    await producer.enqueue(payload)
    assert [message.payload for message in await consumer.dequeue()] == [payload]


@pytest.mark.parametrize("payload", [float("nan"), object(), "\0"])
async def test_what_cannot_be_stored_is_refused_and_nothing_is_written(
    producer: pgqrs.Producer, admin: pgqrs.Admin, payload: object
) -> None:
    with pytest.raises(pgqrs.ValidationError, match="Payload 1"):
        await producer.enqueue_batch(["fine", payload])
    assert await (await admin.get_messages()).count() == 0


async def test_a_lease_that_ran_out_is_delivered_again(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await producer.enqueue("x")
    (first,) = await consumer.dequeue()
    async with pgqrs.Consumer(admin, consumer.queue) as other:
        assert await other.dequeue() == [], "one owner at a time"
        await connection.execute("UPDATE pgqrs_messages SET vt = now() - interval '1 second'")
        (second,) = await other.dequeue()
        assert (second.id, second.read_ct) == (first.id, 2)
        assert await consumer.archive(first.id) is False
        assert await other.archive(second.id) is True


async def test_a_message_at_its_read_limit_becomes_a_dead_letter_with_a_reason(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await producer.enqueue_batch(["poison", "fine"])
    for _ in range(3):
        (message,) = await consumer.dequeue()
        assert message.payload == "poison"
        await consumer.release(message.id)
    assert [message.payload for message in await consumer.dequeue(2)] == ["fine"]
    counts = await admin.queue_counts(producer.queue)
    assert (counts.dead, counts.ready, counts.archived) == (1, 0, 0)
    assert await connection.fetchval("SELECT dead_reason FROM pgqrs_messages WHERE dead_reason IS NOT NULL") == (
        "leased 3 times, the limit is 3"
    )


async def test_the_five_buckets_hold_every_message_once(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    await producer.enqueue_batch([1, 2, 3])
    await producer.enqueue("later", delay=timedelta(hours=1))
    held = await consumer.dequeue(2)
    await consumer.archive(held[0].id)
    assert await admin.queue_counts(producer.queue) == pgqrs.QueueCounts(
        ready=1, delayed=1, leased=1, dead=0, archived=1
    )


async def test_delayed_extended_released_and_deleted(producer: pgqrs.Producer, consumer: pgqrs.Consumer) -> None:
    await producer.enqueue("x")
    (message,) = await consumer.dequeue(lease=timedelta(milliseconds=1))
    assert await consumer.extend(message.id, timedelta(hours=1))
    assert await consumer.dequeue() == []
    assert await consumer.release(message.id, delay=timedelta(hours=1))
    assert await consumer.dequeue() == []
    await producer.enqueue("y")
    (message,) = await consumer.dequeue()
    assert await consumer.delete(message.id)
    assert await consumer.delete(message.id) is False


async def test_many_consumers_never_share_a_message(producer: pgqrs.Producer, dsn: str) -> None:
    sent = await producer.enqueue_batch(list(range(500)))
    done: list[int] = []

    async def work() -> None:
        async with pgqrs.Consumer(dsn, producer.queue) as consumer:
            while batch := await consumer.dequeue(7):
                assert all(await consumer.archive_many([message.id for message in batch]))
                done.extend(message.id for message in batch)

    await asyncio.gather(*(work() for _ in range(8)))
    assert sorted(done) == sent


async def test_iteration_ends_when_the_worker_is_drained(producer: pgqrs.Producer, consumer: pgqrs.Consumer) -> None:
    await producer.enqueue_batch(list(range(5)))
    seen = []
    async with asyncio.timeout(20):
        async for message in consumer:
            seen.append(message.payload)
            await consumer.archive(message.id)
            if len(seen) == 3:
                consumer.drain_requested(1.0)
    assert seen == [0, 1, 2]


async def test_dequeue_refreshes_the_heartbeat(consumer: pgqrs.Consumer, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE pgqrs_workers SET heartbeat_at = now() - interval '10 seconds'")
    await consumer.dequeue()
    assert await consumer.is_healthy(timedelta(seconds=5))


async def test_work_goes_on_after_the_database_was_restarted(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, postgres: PostgresServer
) -> None:
    sent = await producer.enqueue("before")
    postgres.stop("immediate")
    with pytest.raises(pgqrs.DatabaseUnavailableError) as caught:
        await consumer.dequeue()
    assert "canary" not in str(caught.value)
    assert str(postgres.port) in str(caught.value)
    postgres.start()
    assert [message.id for message in await consumer.dequeue()] == [sent]


async def test_the_password_is_in_no_text_of_an_error() -> None:
    bad = "postgresql://user:canary-Pa55word@127.0.0.1:1/nothing"
    async with pgqrs.Admin(bad) as admin:
        assert "canary" not in repr(admin)
        with pytest.raises(pgqrs.DatabaseUnavailableError) as caught:
            await admin.verify()
    assert "canary" not in str(caught.value)
    with pytest.raises(pgqrs.ConfigurationError) as refused:
        pgqrs.Admin("mysql://user:canary-Pa55word@host/db")
    assert "canary" not in str(refused.value)


async def test_a_producer_that_knew_a_queue_before_it_was_made_anew_sends_to_the_new_one(admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        message = await producer.enqueue({"n": 1})
        assert await consumer.dequeue()
        await consumer.archive(message)
        await admin.delete_queue("emails")
        with pytest.raises(pgqrs.QueueNotFoundError):
            await producer.enqueue({"n": 2})
        await admin.create_queue("emails")
        await producer.enqueue({"n": 3})
    async with pgqrs.Consumer(admin, "emails") as consumer:
        assert [message.payload for message in await consumer.dequeue(9)] == [{"n": 3}]


async def test_a_deletion_never_takes_a_message_that_was_committed_beside_it(admin: pgqrs.Admin) -> None:
    async def send(producer: pgqrs.Producer) -> int:
        try:
            return await producer.enqueue({})
        except pgqrs.QueueNotFoundError:
            return 0

    for _ in range(20):
        await admin.create_queue("emails")
        async with pgqrs.Producer(admin, "emails") as producer:
            await producer.start()
            sent, deleted = await asyncio.gather(send(producer), admin.delete_queue("emails"), return_exceptions=True)
            count = await (await admin.get_messages()).count()
            # Either the message is there and the queue with it, or neither is.
            assert (bool(sent), count) in {(True, 1), (False, 0)}
            assert isinstance(deleted, pgqrs.QueueNotEmptyError) is bool(sent)
        if sent:
            async with admin.database.transaction() as transaction:
                await transaction.execute("UPDATE pgqrs_messages SET archived_at = now()")
            await admin.delete_queue("emails")
