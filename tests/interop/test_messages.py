"""Upstream's real client and ours on one queue: both directions, mixed, and what upstream alone would leave behind."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import pgqrs
from pgqrs import lifecycle
from tests.support import upstream

if TYPE_CHECKING:
    import asyncpg

    from tests.support.upstream import UpstreamClient

PAYLOADS = [None, True, 7, -1.5, "ü\n", [], [1, {"a": None}], {"to": "a@example.org", "tags": ["x"]}]


async def test_what_upstream_sends_we_receive(theirs: UpstreamClient, ours: pgqrs.Consumer) -> None:
    sent = [await theirs.call("enqueue", name="sender", payload=payload) for payload in PAYLOADS]
    sent.append(await theirs.call("produce", queue=ours.queue, payload="one"))
    sent += await theirs.call("produce_batch", queue=ours.queue, payloads=["two", "three"])
    received = await ours.dequeue(100)
    assert [message.id for message in received] == sent
    assert [message.payload for message in received] == [*PAYLOADS, "one", "two", "three"]
    assert all(await ours.archive_many(sent))
    assert await theirs.call("dequeue", name="receiver", limit=10) == []


async def test_what_we_send_upstream_receives(theirs: UpstreamClient, sender: pgqrs.Producer) -> None:
    sent = await sender.enqueue_batch(PAYLOADS)
    received = await theirs.call("dequeue", name="receiver", limit=20)
    assert sorted(one["id"] for one in received) == sent
    assert [one["payload"] for one in sorted(received, key=lambda one: int(one["id"]))] == PAYLOADS
    assert all(await theirs.call("archive_many", name="receiver", message_ids=sent))


async def test_delays_hold_for_both(
    theirs: UpstreamClient, sender: pgqrs.Producer, ours: pgqrs.Consumer, connection: asyncpg.Connection
) -> None:
    from_us = await sender.enqueue("ours", delay=timedelta(hours=1))
    from_them = await theirs.call("enqueue", name="sender", payload="theirs", delay=3600)
    assert await ours.dequeue(10) == []
    assert await theirs.call("dequeue", name="receiver", limit=10) == []
    await connection.execute("UPDATE pgqrs_messages SET vt = vt - interval '2 hours'")
    assert {message.id for message in await ours.dequeue(1)} <= {from_us, from_them}
    assert {one["id"] for one in await theirs.call("dequeue", name="receiver", limit=10)} <= {from_us, from_them}


async def test_a_lease_is_one_owner_s_whoever_asks(
    theirs: UpstreamClient, sender: pgqrs.Producer, ours: pgqrs.Consumer
) -> None:
    first, second = await sender.enqueue_batch(["a", "b"])
    assert [message.id for message in await ours.dequeue()] == [first]
    assert [one["id"] for one in await theirs.call("dequeue", name="receiver", limit=5)] == [second]
    assert await ours.dequeue(5) == []
    assert await ours.archive(second) is False
    assert await theirs.call("archive", name="receiver", message_id=first) is False
    assert await theirs.call("delete", name="receiver", message_id=first) is False
    assert await ours.archive(first)
    assert await theirs.call("archive", name="receiver", message_id=second)


async def test_what_one_releases_the_other_gets(
    theirs: UpstreamClient, sender: pgqrs.Producer, ours: pgqrs.Consumer
) -> None:
    sent = await sender.enqueue("x")
    await ours.dequeue()
    assert await ours.release(sent)
    assert [one["id"] for one in await theirs.call("dequeue", name="receiver")] == [sent]
    assert await theirs.call("release", name="receiver", message_ids=[sent]) == 1
    (again,) = await ours.dequeue()
    assert (again.id, again.read_ct) == (sent, 3)


async def test_a_lease_of_upstream_s_that_ran_out_is_delivered_again_by_ours(
    theirs: UpstreamClient, ours: pgqrs.Consumer, connection: asyncpg.Connection
) -> None:
    sent = await theirs.call("enqueue", name="sender", payload="x")
    await theirs.call("dequeue", name="receiver")
    await connection.execute("UPDATE pgqrs_messages SET vt = now() - interval '1 second'")
    assert await theirs.call("dequeue", name="receiver") == [], "this is upstream's defect that ours makes good"
    assert [message.id for message in await ours.dequeue()] == [sent]
    assert await theirs.call("archive", name="receiver", message_id=sent) is False
    assert await ours.archive(sent)


async def test_stopping_a_crashed_upstream_worker_frees_what_it_held(
    dsn: str, admin: pgqrs.Admin, ours: pgqrs.Consumer, sender: pgqrs.Producer
) -> None:
    sent = await sender.enqueue_batch([1, 2, 3])
    async with upstream.client(dsn) as crashing:
        worker = await crashing.call("consumer", queue=ours.queue, name="doomed")
        assert len(await crashing.call("dequeue", name="doomed", limit=2)) == 2
        await crashing.kill()
    assert await lifecycle.stop(admin.database, [worker], reason="crashed") == {worker: 2}
    assert [message.id for message in await ours.dequeue(10)] == sent


async def test_upstream_frees_what_a_worker_of_ours_holds(
    theirs: UpstreamClient, sender: pgqrs.Producer, ours: pgqrs.Consumer
) -> None:
    sent = await sender.enqueue("x")
    await ours.dequeue()
    assert await theirs.call("release_worker", worker_id=ours.worker_id) == 1
    assert await ours.archive(sent) is False
    assert [one["id"] for one in await theirs.call("dequeue", name="receiver")] == [sent]


async def test_upstream_s_worker_is_suspended_by_ours_and_sees_it(
    admin: pgqrs.Admin, theirs: UpstreamClient, queue: str
) -> None:
    worker = await theirs.call("consumer", queue=queue, name="watched")
    await lifecycle.suspend(admin.database, worker)
    assert "suspended" in (await theirs.call("status", name="watched")).lower()
    await lifecycle.resume(admin.database, worker)
    assert "ready" in (await theirs.call("status", name="watched")).lower()


async def test_none_of_our_additions_disturbs_upstream(
    admin: pgqrs.Admin, theirs: UpstreamClient, sender: pgqrs.Producer, connection: asyncpg.Connection
) -> None:
    """Every kind of row that only ours writes, and every call of upstream's that could stumble over it."""
    policy = pgqrs.QueuePolicy(read_limit=1, lease_duration=timedelta(seconds=5))
    queue = await admin.create_queue("poison", policy)
    async with (
        pgqrs.Producer(admin, "poison", "host", 1) as producer,
        pgqrs.Consumer(admin, "poison", "host", 2) as consumer,
    ):
        dead, done = await producer.enqueue_batch(["dead", "done"])
        await consumer.dequeue()
        await consumer.release(dead)
        assert [message.id for message in await consumer.dequeue(2)] == [done]
        await consumer.archive(done)
        async with pgqrs.Consumer(admin, "poison", "host", 2, replace=True):
            await connection.execute("UPDATE pgqrs_workers SET pod_uid = 'u', container = 'c', owner = 'a/b'")
            await admin.set_policy("poison", pgqrs.QueuePolicy(paused=True))
            names = {one["name"] for one in await theirs.call("workers")}
            assert {"host:1", "host:2", f"host:2#{consumer.worker_id}"} <= names
            archived = await theirs.call("archived", queue_id=queue.id)
            assert {one["id"] for one in archived} == {dead, done}
            # A queue that is paused, and a dead letter, are nothing that upstream serves from.
            await theirs.call("consumer", queue="poison", name="other")
            assert await theirs.call("dequeue", name="other", limit=10) == []
    await theirs.call("bootstrap")
    await theirs.call("verify")
    counted = await theirs.call("counts")
    assert (counted["queues"], counted["messages"]) == (2, 0), "archived ones don't count"
    # Upstream's own deletion of a queue looks for rows, so it goes on working without the foreign keys.
    with pytest.raises(upstream.UpstreamError):
        await theirs.call("delete_queue", queue="poison")
    assert await theirs.call("create_queue", queue="empty")
    assert await theirs.call("delete_queue", queue="empty")
    sent = await sender.enqueue("still")
    assert [one["id"] for one in await theirs.call("dequeue", name="receiver")] == [sent]
    assert await theirs.call("extend", name="receiver", message_id=sent, seconds=60)
    assert await theirs.call("delete", name="receiver", message_id=sent)


class _Ledger:
    """What was sent, who holds what, and what is done; several tasks of this process write in it."""

    def __init__(self) -> None:
        self.sent: set[int] = set()
        self.done: list[int] = []
        self.takers: set[str] = set()
        self.all_sent = False
        self._holders: dict[int, str] = {}
        self._given_back: dict[int, int] = {}
        self._chance = random.Random(4)

    @property
    def finished(self) -> bool:
        return self.all_sent and len(self.done) >= len(self.sent)

    def take(self, message_ids: list[int], who: str) -> None:
        for message_id in message_ids:
            holder = self._holders.setdefault(message_id, who)
            assert holder == who, f"{message_id} was handed to {who} while {holder} held it"
            self.takers.add(who)

    def let_go(self, message_id: int) -> bool:
        """Say whether to archive it; one in five is given back, twice at most: upstream hides what was read 5 times.

        It is free for others the moment that the database is told, so our own note of it goes before.
        """
        del self._holders[message_id]
        if self._chance.random() < 0.2 and self._given_back.get(message_id, 0) < 2:
            self._given_back[message_id] = self._given_back.get(message_id, 0) + 1
            return False
        return True


async def _send_ours(dsn: str, ledger: _Ledger) -> None:
    async with pgqrs.Producer(dsn, "mixed") as producer:
        for n in range(30):
            ledger.sent.update(await producer.enqueue_batch([[n, k] for k in range(3)]))


async def _send_theirs(dsn: str, ledger: _Ledger) -> None:
    async with upstream.client(dsn) as client:
        await client.call("producer", queue="mixed", name="p")
        for n in range(60):
            ledger.sent.add(await client.call("enqueue", name="p", payload=n))


async def _receive_ours(dsn: str, ledger: _Ledger, who: str) -> None:
    async with pgqrs.Consumer(dsn, "mixed") as consumer:
        while not ledger.finished:
            batch: list[int] = [message.id for message in await consumer.dequeue(4)]
            ledger.take(batch, who)
            for message_id in batch:
                if ledger.let_go(message_id):
                    assert await consumer.archive(message_id)
                    ledger.done.append(message_id)
                else:
                    assert await consumer.release(message_id)


async def _receive_theirs(dsn: str, ledger: _Ledger, who: str) -> None:
    async with upstream.client(dsn) as client:
        await client.call("consumer", queue="mixed", name="c")
        while not ledger.finished:
            batch = [message["id"] for message in await client.call("dequeue", name="c", limit=4)]
            ledger.take(batch, who)
            for message_id in batch:
                if ledger.let_go(message_id):
                    assert await client.call("archive", name="c", message_id=message_id)
                    ledger.done.append(message_id)
                else:
                    assert await client.call("release", name="c", message_ids=[message_id]) == 1


async def test_mixed_producers_and_consumers_lose_nothing_and_share_nothing(
    dsn: str, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await admin.create_queue("mixed")
    ledger = _Ledger()

    async def send_all() -> None:
        await asyncio.gather(
            _send_ours(dsn, ledger), _send_theirs(dsn, ledger), _send_ours(dsn, ledger), _send_theirs(dsn, ledger)
        )
        ledger.all_sent = True

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        group.create_task(send_all())
        for number in range(2):
            group.create_task(_receive_ours(dsn, ledger, f"ours {number}"))
            group.create_task(_receive_theirs(dsn, ledger, f"theirs {number}"))
    assert len(ledger.takers) == 4, "everybody had a part in it"
    assert len(ledger.done) == len(set(ledger.done)), "archived once"
    assert set(ledger.done) == ledger.sent
    rows = await connection.fetch("SELECT id FROM pgqrs_messages WHERE archived_at IS NOT NULL AND dead_reason IS NULL")
    assert {row["id"] for row in rows} == ledger.sent
