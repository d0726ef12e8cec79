"""Dead letters: put aside with a reason, listed in pages, sent again; and counts that stay cheap."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from pgqrs import fleet, messages
from pgqrs.models import MAX_COUNT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg


@pytest.fixture
async def producer(admin: pgqrs.Admin) -> AsyncIterator[pgqrs.Producer]:
    await admin.create_queue("emails")
    await admin.create_queue("letters")
    async with pgqrs.Producer(admin, "emails") as opened:
        yield opened


@pytest.fixture
async def consumer(admin: pgqrs.Admin, producer: pgqrs.Producer) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(admin, producer.queue) as opened:
        yield opened


@pytest.fixture
async def table(admin: pgqrs.Admin) -> pgqrs.Messages:
    return await admin.get_messages()


async def _kill(producer: pgqrs.Producer, consumer: pgqrs.Consumer, reasons: list[str]) -> list[int]:
    ids = await producer.enqueue_batch([{"reason": reason} for reason in reasons])
    assert [message.id for message in await consumer.dequeue(len(ids))] == ids
    for message_id, reason in zip(ids, reasons, strict=True):
        assert await consumer.dead_letter(message_id, reason)
    return list(ids)


async def test_a_dead_letter_says_what_it_was_and_why_it_is_dead(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, table: pgqrs.Messages
) -> None:
    sent = await producer.enqueue({"to": "x"}, key="k", headers={"trace": 1})
    await consumer.dequeue()
    assert await consumer.dead_letter(sent, "no such address")
    assert await consumer.dead_letter(sent, "twice") is False
    assert await consumer.archive(sent) is False
    assert await consumer.dequeue() == []
    (letter,) = await table.dead_letters("emails")
    assert (letter.id, letter.payload, letter.reason, letter.read_ct) == (sent, {"to": "x"}, "no such address", 1)
    assert (letter.key, letter.headers) == ("k", {"trace": 1})
    assert letter.enqueued_at <= letter.died_at


async def test_they_are_listed_in_pages(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, table: pgqrs.Messages
) -> None:
    ids = await _kill(producer, consumer, ["a", "b", "c", "d", "e"])
    seen: list[int] = []
    while page := await table.dead_letters("emails", after=seen[-1] if seen else 0, limit=2):
        assert len(page) <= 2
        seen += [letter.id for letter in page]
    assert seen == ids
    assert await table.dead_letters("letters") == []
    with pytest.raises(pgqrs.QueueNotFoundError):
        await table.dead_letters("nothing")


async def test_they_are_found_by_reason_and_time(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, table: pgqrs.Messages, connection: asyncpg.Connection
) -> None:
    old, slow, broken = await _kill(producer, consumer, ["old timeout", "a timeout of 5 s", "broken"])
    await connection.execute("UPDATE pgqrs_messages SET archived_at = now() - interval '2 days' WHERE id = $1", old)
    yesterday = datetime.now(UTC) - timedelta(days=1)

    async def found(**filters: Any) -> list[int]:
        return [letter.id for letter in await table.dead_letters("emails", **filters)]

    assert await found(reason="%timeout%") == [old, slow]
    assert await found(reason="broken") == [broken]
    assert await found(reason="timeout") == []
    assert await found(since=yesterday) == [slow, broken]
    assert await found(before=yesterday.replace(tzinfo=None)) == [old], "a time without a zone is UTC"
    assert await found(since=yesterday, reason="%timeout%") == [slow]
    with pytest.raises(pgqrs.ValidationError, match="since"):
        await found(since="yesterday")


async def test_replayed_they_are_as_good_as_new(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, table: pgqrs.Messages, admin: pgqrs.Admin
) -> None:
    first, second, third = await _kill(producer, consumer, ["a", "b", "c"])
    ready = await producer.enqueue("was ready before")
    assert await table.replay(second)
    assert await table.replay(second) is False
    assert await table.replay_many([third, ready, 10**9]) == [True, False, False]
    received = await consumer.dequeue(9)
    assert [message.id for message in received] == [ready, second, third]
    assert [message.read_ct for message in received] == [1, 1, 1]
    assert [letter.id for letter in await table.dead_letters("emails")] == [first]
    assert (await admin.queue_counts("emails")).dead == 1


async def test_a_replayed_letter_gives_up_a_key_that_a_live_message_has(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, table: pgqrs.Messages
) -> None:
    for n in range(2):
        sent = await producer.enqueue(n, key="k")
        await consumer.dequeue()
        await consumer.dead_letter(sent, "broken")
    live = await producer.enqueue(2, key="k")
    assert await table.replay_matching("emails") == 2
    assert [(message.payload, message.key) for message in await consumer.dequeue(9)] == [(2, "k"), (0, None), (1, None)]
    assert await producer.enqueue(3, key="k") == live


async def test_those_that_match_are_replayed_in_slices_and_no_others(
    consumer: pgqrs.Consumer, table: pgqrs.Messages, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO pgqrs_messages (queue_id, payload, archived_at, dead_reason) "
        "SELECT q.id, '1', now(), CASE WHEN n % 2 = 0 THEN 'timeout' ELSE 'broken' END "
        "FROM generate_series(1, 5000) n, pgqrs_queues q"
    )
    assert await table.replay_matching("emails", reason="timeout", since=datetime.now(UTC) + timedelta(hours=1)) == 0
    assert await table.replay_matching("emails", reason="timeout") == 2500
    assert len(await consumer.dequeue(10_000)) == 2500
    assert len(await table.dead_letters("emails", limit=10_000)) == 2500
    assert len(await table.dead_letters("letters", limit=10_000)) == 5000
    with pytest.raises(pgqrs.QueueNotFoundError):
        await table.replay_matching("nothing")


async def test_two_that_replay_at_once_share_the_work(
    consumer: pgqrs.Consumer, dsn: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO pgqrs_messages (queue_id, payload, archived_at, dead_reason) "
        "SELECT q.id, '1', now(), 'x' FROM generate_series(1, 5000) n, pgqrs_queues q WHERE q.queue_name = 'emails'"
    )
    async with pgqrs.Admin(dsn) as one, pgqrs.Admin(dsn) as two:
        replayed = await asyncio.gather(
            *(messages.replay_matching(admin.database, "emails") for admin in (one, two, one, two))
        )
    assert sum(replayed) == 5000
    assert len(await consumer.dequeue(10_000)) == 5000


async def test_a_reason_that_upstream_left_on_a_live_message_means_nothing(
    producer: pgqrs.Producer,
    consumer: pgqrs.Consumer,
    table: pgqrs.Messages,
    admin: pgqrs.Admin,
    connection: asyncpg.Connection,
) -> None:
    (sent,) = await _kill(producer, consumer, ["x"])
    await connection.execute(
        "UPDATE pgqrs_messages SET archived_at = NULL, read_ct = 0, vt = now(), enqueued_at = now()"
    )
    assert await table.dead_letters("emails") == []
    assert (await admin.queue_counts("emails")).ready == 1
    await consumer.dequeue()
    assert await consumer.archive(sent)
    counts = await admin.queue_counts("emails")
    assert (counts.dead, counts.archived) == (0, 1)


async def test_counting_stops_at_a_cap_and_says_so(
    producer: pgqrs.Producer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    worker = producer.worker_id
    insert = (
        "INSERT INTO pgqrs_messages (queue_id, payload, vt, consumer_worker_id, archived_at, dead_reason) "
        "SELECT q.id, '1', now() + $2::interval, $3, $4, $5 FROM generate_series(1, $1::int), pgqrs_queues q "
        "WHERE q.queue_name = 'emails'"
    )
    past, future, over = timedelta(seconds=-1), timedelta(hours=1), datetime.now(UTC)
    for arguments in (
        (MAX_COUNT, past, None, None, None),
        (7, future, worker, None, None),
        (MAX_COUNT - 7, future, None, None, None),
        (5, past, None, over, "x"),
        (MAX_COUNT - 5, past, None, over, None),
    ):
        await connection.execute(insert, *arguments)
    exact = pgqrs.QueueCounts(ready=MAX_COUNT, delayed=MAX_COUNT - 7, leased=7, dead=5, archived=MAX_COUNT - 5)
    assert await admin.queue_counts("emails") == exact
    for arguments in (
        (1, past, None, None, None),
        (5, future + timedelta(hours=1), worker, None, None),
        (MAX_COUNT + 1, past, None, over, "x"),
    ):
        await connection.execute(insert, *arguments)
    counts = await admin.queue_counts("emails")
    assert (counts.ready, counts.delayed, counts.leased, counts.dead) == (MAX_COUNT, MAX_COUNT - 7, 8, MAX_COUNT)
    assert counts.capped == ("ready", "delayed", "leased", "dead", "archived")
    counted = (await fleet.counts(admin.database, ["emails", "letters"]))["emails"].messages
    assert (counted.ready, counted.dead) == (MAX_COUNT, MAX_COUNT)
    assert counted.capped == ("ready", "delayed", "leased", "dead")
    assert await admin.queue_counts("letters") == pgqrs.QueueCounts()
