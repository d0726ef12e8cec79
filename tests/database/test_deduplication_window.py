"""A key that stays taken after its message was archived: for how long, whose it is, what is kept and paid for it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from pgqrs import messages, queues, reaping, statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import asyncpg

QUEUE = "emails"
HOUR = timedelta(hours=1)
WINDOW = pgqrs.QueuePolicy(deduplication_window=HOUR)


@pytest.fixture
async def producer(admin: pgqrs.Admin) -> AsyncIterator[pgqrs.Producer]:
    await admin.create_queue(QUEUE, WINDOW)
    async with pgqrs.Producer(admin, QUEUE) as opened:
        yield opened


@pytest.fixture
async def consumer(admin: pgqrs.Admin, producer: pgqrs.Producer) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(admin, producer.queue) as opened:
        yield opened


async def _finish(consumer: pgqrs.Consumer, *, count: int = 1) -> list[int]:
    """Archive all that is there, and give the ids."""
    ids = [message.id for message in await consumer.dequeue(100)]
    assert len(ids) == count
    assert await consumer.archive_many(ids) == [True] * count
    return list(ids)


async def _age(connection: asyncpg.Connection, message_id: int, age: timedelta) -> None:
    """Let a message have been archived so long ago."""
    changed = await connection.execute(
        "UPDATE pgqrs_messages SET archived_at = now() - $2::interval WHERE id = $1", message_id, age
    )
    assert changed == "UPDATE 1"


async def _rows(connection: asyncpg.Connection, key: str) -> list[int]:
    found = await connection.fetch("SELECT id FROM pgqrs_messages WHERE dedup_key = $1 ORDER BY id", key)
    return [row["id"] for row in found]


# -- for how long


async def test_a_key_is_taken_for_the_window_after_its_message_was_archived(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, connection: asyncpg.Connection
) -> None:
    first = await producer.enqueue(1, key="a")
    await _finish(consumer)
    assert await producer.enqueue(2, key="a") == first
    await _age(connection, first, HOUR - timedelta(minutes=1))
    assert await producer.enqueue(3, key="a", delay=HOUR) == first
    assert await _rows(connection, "a") == [first]
    assert await consumer.dequeue() == []
    await _age(connection, first, HOUR + timedelta(minutes=1))
    second = await producer.enqueue(4, key="a")
    assert await _rows(connection, "a") == [first, second]
    assert await producer.enqueue(5, key="a") == second, "it is live"
    await _finish(consumer)
    assert await producer.enqueue(6, key="a") == second, "the later one holds it now"


async def test_the_window_that_counts_is_that_of_the_moment_of_sending(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    first = await producer.enqueue(1, key="a")
    await _finish(consumer)
    await _age(connection, first, 2 * HOUR)
    await admin.set_policy(QUEUE, pgqrs.QueuePolicy(deduplication_window=3 * HOUR))
    assert await producer.enqueue(2, key="a") == first
    await admin.set_policy(QUEUE, pgqrs.QueuePolicy())
    second = await producer.enqueue(3, key="a")
    assert second != first
    await _finish(consumer)
    third = await producer.enqueue(4, key="a")
    assert third not in {first, second}
    # Now two archived ones and a live one have the key within the window.
    await admin.set_policy(QUEUE, pgqrs.QueuePolicy(deduplication_window=timedelta(days=30)))
    assert await producer.enqueue(5, key="a") == third
    assert await consumer.dequeue(9, lease=HOUR) != []
    assert await consumer.delete(third)
    assert await producer.enqueue(6, key="a") == second, "the one that was archived last"


@pytest.mark.parametrize(("length", "holds"), [("1000000 years", True), ("-1000000 years", False)])
async def test_whatever_was_written_by_hand_messages_are_sent_and_removed(
    producer: pgqrs.Producer,
    consumer: pgqrs.Consumer,
    admin: pgqrs.Admin,
    connection: asyncpg.Connection,
    length: str,
    *,
    holds: bool,
) -> None:
    await connection.execute(
        f"UPDATE pgqrs_queues SET dedup_window = '{length}', archive_retention = interval '1 hour'"
    )
    first = await producer.enqueue(1, key="a")
    await _finish(consumer)
    await _age(connection, first, timedelta(days=9))
    assert (await producer.enqueue(2, key="a") == first) is holds
    assert await reaping.archived_messages(admin.database) == (0 if holds else 1)


# -- whose key


async def test_queues_do_not_share_keys_and_each_has_its_own_window(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    first = await producer.enqueue(1, key="a")
    await _finish(consumer)
    await admin.create_queue("letters")
    async with pgqrs.Producer(admin, "letters") as other, pgqrs.Consumer(admin, "letters") as reader:
        elsewhere = await other.enqueue(1, key="a")
        assert elsewhere != first
        await _finish(reader)
        assert await other.enqueue(2, key="a") != elsewhere, "this queue has no window"
    assert await producer.enqueue(2, key="a") == first


async def test_a_batch_adds_what_is_new_and_names_what_was_there(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer
) -> None:
    done = await producer.enqueue("done", key="m")
    await _finish(consumer)
    live = await producer.enqueue("live", key="k")
    ids = await producer.enqueue_batch(
        ["z", "none", "m again", "a", "k again", "z again", "m once more", "none"],
        keys=["z", None, "m", "a", "k", "z", "m", None],
    )
    assert [ids[2], ids[6], ids[4], ids[5]] == [done, done, live, ids[0]]
    received = await consumer.dequeue(20)
    assert [message.payload for message in received] == ["live", "z", "none", "a", "none"]
    assert [message.id for message in received] == [live, ids[0], ids[1], ids[3], ids[7]]
    await consumer.archive_many([message.id for message in received])
    again = await producer.enqueue_batch([1, 2, 3, 4], keys=["a", "z", "k", "m"])
    assert again == [ids[3], ids[0], live, done]


async def test_messages_without_a_key_are_never_taken_for_each_other(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer
) -> None:
    sent = [await producer.enqueue("same", headers={"h": 1}), *await producer.enqueue_batch(["same", "same"])]
    await _finish(consumer, count=3)
    mixed = await producer.enqueue_batch(["same"] * 3, keys=[None, "a", None])
    assert len({*sent, *mixed, await producer.enqueue("same")}) == 7


async def test_what_was_not_done_leaves_its_key_at_once(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    """A dead letter was given up, and what was deleted left nothing behind: who sends anew wants it done."""
    dead = await producer.enqueue(1, key="a")
    await consumer.dequeue()
    assert await consumer.dead_letter(dead, "broken")
    deleted = await producer.enqueue(2, key="a")
    assert deleted != dead
    await consumer.dequeue()
    assert await consumer.delete(deleted)
    archived = await producer.enqueue(3, key="a")
    assert archived not in {dead, deleted}
    await _finish(consumer)
    assert await producer.enqueue(4, key="a") == archived
    assert await queues.purge(admin.database, QUEUE, archive=True) == 2
    assert await producer.enqueue(5, key="a") not in {dead, deleted, archived}, "what was purged is forgotten"


async def test_a_letter_that_was_replayed_has_given_up_its_key(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    letter = await producer.enqueue(1, key="a")
    await consumer.dequeue()
    assert await consumer.dead_letter(letter, "broken")
    assert await messages.replay(admin.database, [letter]) == [True]
    assert await _finish(consumer) == [letter]
    anew = await producer.enqueue(2, key="a")
    assert anew != letter
    await _finish(consumer)
    assert await producer.enqueue(3, key="a") == anew


# -- what is kept for it


async def test_retention_keeps_what_holds_a_key(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    db = admin.database
    held, over, plain = await producer.enqueue_batch([1, 2, 3], keys=["held", "over", None])
    await _finish(consumer, count=3)
    await _age(connection, over, HOUR + timedelta(minutes=1))
    for message_id in (held, plain):
        await _age(connection, message_id, HOUR - timedelta(minutes=1))
    assert await reaping.archived_messages(db) == 0, "without a retention all is kept"
    await admin.set_retention(QUEUE, pgqrs.QueueRetention(archived=timedelta(minutes=1)))
    assert await reaping.archived_of(db, [QUEUE]) == 1
    assert await _rows(connection, "over") == []
    assert await producer.enqueue(1, key="held") == held
    # A longer retention keeps longer, and what somebody asks for by hand is done.
    await _age(connection, held, 2 * HOUR)
    await admin.set_retention(QUEUE, pgqrs.QueueRetention(archived=3 * HOUR))
    assert await reaping.archived_messages(db) == 0
    assert await reaping.archived_messages(db, older_than=timedelta(minutes=2)) == 2
    assert await producer.enqueue(1, key="held") != held


async def test_without_a_window_retention_is_what_it_says(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await admin.set_policy(QUEUE, pgqrs.QueuePolicy())
    await admin.set_retention(QUEUE, pgqrs.QueueRetention(archived=timedelta(minutes=1)))
    old, recent = await producer.enqueue_batch([1, 2], keys=["old", "recent"])
    await _finish(consumer, count=2)
    await _age(connection, old, timedelta(minutes=2))
    assert await reaping.archived_messages(admin.database) == 1
    assert await _rows(connection, "recent") == [recent]


# -- what it costs


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _looks(connection: asyncpg.Connection, name: str, *arguments: object) -> tuple[int, int]:
    """Send messages, undo it, and give how often archived keys were looked for, before and after they were added."""
    transaction = connection.transaction()
    await transaction.start()
    called = "SELECT coalesce(sum(calls), 0) FROM pg_stat_xact_user_functions WHERE funcname = 'pgqrs_check_key'"
    before = await connection.fetchval(called)
    text = statements.statement(f"messages.{name}", "public")
    (explained,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", 1, *arguments))
    checks = await connection.fetchval(called) - before
    await transaction.rollback()
    scans = [node for node in _nodes(explained["Plan"]) if node.get("Index Name") == "pgqrs_messages_archived_key"]
    assert len(scans) == 1
    return scans[0]["Actual Loops"], int(checks)


async def test_who_has_no_window_or_gives_no_key_pays_nothing(
    producer: pgqrs.Producer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await connection.execute("SET track_functions = 'all'")
    three = (["1"] * 3, [0.0] * 3, 1, [None] * 3)
    one = ("1", 0.0, 1, None)
    assert await _looks(connection, "enqueue_each", *three, ["a", None, "b"]) == (2, 2)
    assert await _looks(connection, "enqueue_key", *one, "a") == (1, 1)
    assert await _looks(connection, "enqueue_each", *three, [None, None, None]) == (0, 0)
    await admin.set_policy(producer.queue, pgqrs.QueuePolicy())
    assert await _looks(connection, "enqueue_each", *three, ["a", None, "b"]) == (0, 0)
    assert await _looks(connection, "enqueue_key", *one, "a") == (0, 0)


async def test_archived_messages_without_a_key_are_in_no_further_index(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, connection: asyncpg.Connection
) -> None:
    size = "SELECT pg_relation_size('pgqrs_messages_archived_key')"
    empty = await connection.fetchval(size)
    await producer.enqueue_batch(list(range(50)))
    await _finish(consumer, count=50)
    assert await connection.fetchval(size) == empty
    await producer.enqueue(1, key="a")
    await _finish(consumer)
    assert await connection.fetchval(size) > empty
