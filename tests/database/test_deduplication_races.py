"""Keys that stay taken, and those who send and finish at the same moment: a key has one message, whoever comes when."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs
from tests.support.consuming import becomes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUEUE = "emails"
WINDOW = pgqrs.QueuePolicy(deduplication_window=timedelta(hours=1))


@pytest.fixture
async def producer(admin: pgqrs.Admin) -> AsyncIterator[pgqrs.Producer]:
    await admin.create_queue(QUEUE, WINDOW)
    async with pgqrs.Producer(admin, QUEUE) as opened:
        yield opened


@pytest.fixture
async def observer(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


async def _rows(connection: asyncpg.Connection, key: str) -> list[int]:
    found = await connection.fetch("SELECT id FROM pgqrs_messages WHERE dedup_key = $1 ORDER BY id", key)
    return [row["id"] for row in found]


async def _waits(connection: asyncpg.Connection) -> bool:
    """Tell whether somebody waits for another one's transaction in this database."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
    )


async def _blocked_by(connection: asyncpg.Connection, key: str) -> asyncpg.transaction.Transaction:
    """Begin a transaction that sends this key, and leave it open."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(
        "INSERT INTO pgqrs_messages (queue_id, payload, dedup_key) "
        "SELECT q.id, '1', $2 FROM pgqrs_queues q WHERE q.queue_name = $1",
        QUEUE,
        key,
    )
    return transaction


async def test_a_batch_that_waited_adds_nothing_that_was_done_meanwhile(
    producer: pgqrs.Producer, admin: pgqrs.Admin, connection: asyncpg.Connection, observer: asyncpg.Connection
) -> None:
    """Its statement began before the other message was there, and adds its own after that one was archived."""
    blocker = await _blocked_by(connection, "a")
    batch = asyncio.create_task(producer.enqueue_batch(["x", "y"], keys=["a", "b"]))
    await becomes(lambda: _waits(observer), wanted=True)
    async with pgqrs.Producer(admin, QUEUE) as other, pgqrs.Consumer(admin, QUEUE) as consumer:
        done = await other.enqueue("y", key="b")
        assert [message.id for message in await consumer.dequeue()] == [done]
        assert await consumer.archive(done)
    await blocker.rollback()
    ids = await batch
    assert ids[1] == done
    assert await _rows(observer, "b") == [done]
    assert await _rows(observer, "a") == [ids[0]]


async def test_one_that_waited_for_a_message_that_is_archived_at_once_is_not_added(
    producer: pgqrs.Producer, connection: asyncpg.Connection, observer: asyncpg.Connection
) -> None:
    blocker = await _blocked_by(connection, "a")
    sending = asyncio.create_task(producer.enqueue("x", key="a"))
    await becomes(lambda: _waits(observer), wanted=True)
    (first,) = await _rows(connection, "a")
    await connection.execute("UPDATE pgqrs_messages SET archived_at = now() WHERE id = $1", first)
    await blocker.commit()
    assert await sending == first
    assert await _rows(observer, "a") == [first]


async def test_a_transaction_of_the_app_keeps_what_else_it_did(
    producer: pgqrs.Producer, connection: asyncpg.Connection, observer: asyncpg.Connection, dsn: str
) -> None:
    """The server refuses the statement, and nobody but the library sees it."""
    blocker = await _blocked_by(connection, "a")
    app = await asyncpg.connect(dsn)
    await observer.execute("CREATE TABLE orders (id integer)")

    async def order() -> list[int]:
        async with app.transaction():
            await app.execute("INSERT INTO orders VALUES (7)")
            return list(await producer.enqueue_batch([1, 2], keys=["a", "new"], connection=app))

    sending = asyncio.create_task(order())
    await becomes(lambda: _waits(observer), wanted=True)
    (first,) = await _rows(connection, "a")
    await connection.execute("UPDATE pgqrs_messages SET archived_at = now() WHERE id = $1", first)
    await blocker.commit()
    ids = await sending
    assert ids[0] == first
    assert await _rows(observer, "new") == [ids[1]]
    assert await observer.fetchval("SELECT array_agg(id) FROM orders") == [7]
    await app.close()


async def test_a_key_that_never_settles_is_said_and_not_tried_for_ever(
    producer: pgqrs.Producer, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "CREATE OR REPLACE FUNCTION pgqrs_check_key(message bigint, of_queue bigint, of_key text, since timestamptz) "
        "RETURNS bigint LANGUAGE plpgsql STRICT AS $$ BEGIN "
        "RAISE unique_violation USING CONSTRAINT = 'pgqrs_messages_archived_key'; END $$"
    )
    with pytest.raises(pgqrs.DatabaseUnavailableError, match="come and go too fast"):
        await producer.enqueue_batch([1, 2], keys=["a", "b"])
    assert await _rows(connection, "a") == []


async def test_a_rule_of_the_app_s_own_is_no_key_that_was_taken(
    producer: pgqrs.Producer, connection: asyncpg.Connection
) -> None:
    await connection.execute("CREATE UNIQUE INDEX theirs ON pgqrs_messages (payload)")
    await producer.enqueue("same", key="a")
    with pytest.raises(pgqrs.ValidationError, match="theirs"):
        await producer.enqueue("same", key="b")


# -- many at once

KEYS = [f"k{number}" for number in range(60)]


@dataclass
class Crowd:
    """Those who send about the same keys at about the same time, and those who finish what was sent."""

    dsn: str
    #: By key the ids that senders were told and that were committed.
    answers: dict[str, set[int]] = field(default_factory=lambda: {key: set() for key in KEYS})
    all_sent: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, chance: random.Random) -> None:
        app = await asyncpg.connect(self.dsn)
        async with pgqrs.Producer(self.dsn, QUEUE) as sender:
            for position in range(len(KEYS)):
                places = (position + chance.randint(-3, 3) for _ in range(chance.randint(1, 5)))
                keys = [KEYS[min(len(KEYS) - 1, max(0, place))] for place in places]
                if chance.random() < 0.3:
                    ids = await self._send_in_transaction(sender, app, keys, commit=chance.random() < 0.5)
                elif len(keys) == 1:
                    ids = [await sender.enqueue(keys[0], key=keys[0])]
                else:
                    ids = list(await sender.enqueue_batch(keys, keys=keys))
                for key, message_id in zip(keys, ids, strict=False):
                    self.answers[key].add(message_id)
        await app.close()

    async def _send_in_transaction(
        self, sender: pgqrs.Producer, app: asyncpg.Connection, keys: list[str], *, commit: bool
    ) -> list[int]:
        transaction = app.transaction()
        await transaction.start()
        ids: list[int] = list(await sender.enqueue_batch(keys, keys=keys, connection=app))
        if commit:
            await transaction.commit()
            return ids
        await transaction.rollback()
        return []

    async def finish(self, chance: random.Random) -> None:
        async with pgqrs.Consumer(self.dsn, QUEUE) as consumer:
            while True:
                last = self.all_sent.is_set()
                received = await consumer.dequeue(5)
                for message in received:
                    if chance.random() < 0.1:
                        assert await consumer.dead_letter(message.id, "given up")
                    else:
                        assert await consumer.archive(message.id)
                if last and not received:
                    return


@pytest.mark.parametrize("seed", range(3))
async def test_of_many_that_send_and_finish_at_once_a_key_has_one_message(
    admin: pgqrs.Admin, dsn: str, connection: asyncpg.Connection, seed: int
) -> None:
    """Single messages, batches, transactions of apps that commit or not; what is taken is archived, or given up."""
    await admin.create_queue(QUEUE, WINDOW)
    crowd = Crowd(dsn)
    async with asyncio.TaskGroup() as finishing:
        for number in range(2):
            finishing.create_task(crowd.finish(random.Random(f"{seed} finishes {number}")))
        async with asyncio.TaskGroup() as sending:
            for number in range(6):
                sending.create_task(crowd.send(random.Random(f"{seed} sends {number}")))
        crowd.all_sent.set()
    rows = await connection.fetch("SELECT id, dedup_key, dead_reason FROM pgqrs_messages")
    assert len(rows) >= len(KEYS)
    for key in KEYS:
        done = {row["id"] for row in rows if row["dedup_key"] == key and row["dead_reason"] is None}
        dead = {row["id"] for row in rows if row["dedup_key"] == key and row["dead_reason"] is not None}
        assert len(done) <= 1, f"{key} was accepted twice"
        assert crowd.answers[key] == done | dead, "what was sent is there, and nothing else"
