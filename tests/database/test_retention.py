"""Emptying queues, and removing what is over: in bounded batches, by several at once, and never what is alive."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import pgqrs
from pgqrs import WorkerStatus, lifecycle, messages, queues, reaping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


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


async def _workflow_run(connection: asyncpg.Connection, message_id: int) -> None:
    """What an upstream workflow leaves behind: a row that refers to a message."""
    await connection.execute(
        "WITH w AS ("
        "    INSERT INTO pgqrs_workflows (name, queue_id) SELECT 'w', id FROM pgqrs_queues LIMIT 1 RETURNING id"
        ") "
        "INSERT INTO pgqrs_workflow_runs (workflow_id, message_id, status) SELECT id, $1, 'RUNNING' FROM w",
        message_id,
    )


async def test_a_purge_removes_what_is_live_and_leaves_the_archive_and_other_queues(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    ids = await producer.enqueue_batch(list(range(6)))
    await producer.enqueue("later", delay=HOUR)
    async with pgqrs.Producer(admin, "letters") as other:
        await other.enqueue("kept")
    await consumer.dequeue(3)
    await consumer.archive(ids[0])
    await consumer.dead_letter(ids[1], "x")
    assert await queues.purge(admin.database, "emails") == 5
    assert await consumer.archive(ids[2]) is False, "a leased message is gone too"
    assert await admin.queue_counts("emails") == pgqrs.QueueCounts(dead=1, archived=1)
    assert (await admin.queue_counts("letters")).ready == 1
    assert await queues.purge(admin.database, "emails", archive=True) == 2
    assert await admin.queue_counts("emails") == pgqrs.QueueCounts()
    with pytest.raises(pgqrs.QueueNotFoundError):
        await queues.purge(admin.database, "nothing")


async def test_a_large_queue_is_purged_by_several_at_once_while_somebody_sends(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO pgqrs_messages (queue_id, payload, archived_at) "
        "SELECT q.id, '1', CASE WHEN n % 2 = 0 THEN now() END "
        "FROM generate_series(1, 30000) n, pgqrs_queues q WHERE q.queue_name = 'emails'"
    )
    first, second, sent, _ = await asyncio.gather(
        queues.purge(admin.database, "emails", archive=True),
        queues.purge(admin.database, "emails", archive=True),
        producer.enqueue_batch(list(range(10))),
        consumer.dequeue(100),
    )
    counts = await admin.queue_counts("emails")
    assert counts.ready + counts.leased <= len(sent), "nothing of old is left"
    assert counts.archived == 0
    assert 30_000 <= first + second <= 30_010


async def test_what_an_upstream_workflow_refers_to_is_left_alone(
    producer: pgqrs.Producer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    kept, _ = await producer.enqueue_batch([1, 2])
    await _workflow_run(connection, kept)
    assert await queues.purge(admin.database, "emails", archive=True) == 1
    assert (await admin.queue_counts("emails")).ready == 1


async def test_the_error_of_an_unknown_queue_offers_names_that_are_near(admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    with pytest.raises(pgqrs.QueueNotFoundError, match=r"no queue 'Email'.*Did you mean 'emails'\?"):
        await admin.get_queue("Email")
    with pytest.raises(pgqrs.QueueNotFoundError) as caught:
        await admin.get_queue("something else")
    assert "mean" not in str(caught.value)


async def test_retention_is_kept_apart_from_the_policy(admin: pgqrs.Admin) -> None:
    made = await admin.create_queue("emails", retention=pgqrs.QueueRetention(archived=DAY))
    assert made.retention == pgqrs.QueueRetention(archived=DAY)
    retention = pgqrs.QueueRetention(archived=HOUR, dead=DAY, workers=7 * DAY)
    assert (await queues.set_retention(admin.database, "emails", retention)).retention == retention
    found = await admin.set_policy("emails", pgqrs.QueuePolicy(read_limit=9))
    assert (found.retention, found.policy.read_limit) == (retention, 9)
    with pytest.raises(pgqrs.QueueNotFoundError):
        await queues.set_retention(admin.database, "nothing", retention)
    with pytest.raises(pgqrs.ValidationError, match="retention of dead letters"):
        await queues.set_retention(admin.database, "emails", pgqrs.QueueRetention(dead=-DAY))


async def test_what_was_archived_long_ago_is_removed_and_nothing_else(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    old, recent, dead, referred = await producer.enqueue_batch(list(range(4)))
    await consumer.dequeue(4)
    await consumer.archive_many([old, recent, referred])
    await consumer.dead_letter(dead, "x")
    await producer.enqueue("live")
    await connection.execute(
        "UPDATE pgqrs_messages SET archived_at = now() - interval '2 hours', enqueued_at = now() - interval '9 days' "
        "WHERE id <> $1 AND archived_at IS NOT NULL",
        recent,
    )
    await connection.execute("UPDATE pgqrs_messages SET enqueued_at = now() - interval '9 days'")
    await _workflow_run(connection, referred)
    db = admin.database
    assert await reaping.archived_messages(db) == 0, "no queue has a retention"
    assert await reaping.archived_messages(db, older_than=3 * HOUR) == 0
    assert await reaping.archived_messages(db, older_than=HOUR, queue="letters") == 0
    assert await reaping.archived_messages(db, older_than=HOUR) == 1
    assert await admin.queue_counts("emails") == pgqrs.QueueCounts(ready=1, dead=1, archived=2)
    assert await reaping.dead_letters(db, older_than=3 * HOUR) == 0
    assert await reaping.dead_letters(db, older_than=HOUR) == 1
    assert await admin.queue_counts("emails") == pgqrs.QueueCounts(ready=1, archived=2)
    with pytest.raises(pgqrs.QueueNotFoundError):
        await reaping.archived_messages(db, queue="nothing")
    with pytest.raises(pgqrs.ValidationError, match="older_than"):
        await reaping.archived_messages(db, older_than=-HOUR)


async def test_each_queue_s_own_retention_is_kept(
    producer: pgqrs.Producer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    db = admin.database
    assert producer.queue == "emails"
    await queues.set_retention(db, "emails", pgqrs.QueueRetention(archived=HOUR, dead=2 * DAY, workers=HOUR))
    await connection.execute(
        "INSERT INTO pgqrs_messages (queue_id, payload, archived_at, dead_reason) "
        "SELECT q.id, '1', now() - age, CASE WHEN n % 2 = 0 THEN 'x' END "
        "FROM generate_series(1, 10) n, pgqrs_queues q, unnest(ARRAY[interval '1 day', '3 days']) age"
    )
    await connection.execute(
        "INSERT INTO pgqrs_workers (name, queue_id, status, shutdown_at) "
        "SELECT q.queue_name || ' old', q.id, 'stopped', now() - interval '1 day' FROM pgqrs_queues q"
    )
    assert await reaping.reap(db) == reaping.Reaped(archived_messages=10, dead_letters=5, stopped_workers=1)
    assert await admin.queue_counts("emails") == pgqrs.QueueCounts(dead=5)
    assert await admin.queue_counts("letters") == pgqrs.QueueCounts(dead=10, archived=10)
    assert await reaping.reap(db) == reaping.Reaped()


async def test_several_that_reap_at_once_share_the_work(
    producer: pgqrs.Producer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO pgqrs_messages (queue_id, payload, archived_at, dead_reason) "
        "SELECT q.id, '1', now() - interval '1 day', CASE WHEN n % 2 = 0 THEN 'x' END "
        "FROM generate_series(1, 8000) n, pgqrs_queues q"
    )
    db = admin.database
    removed = await asyncio.gather(
        *(reaping.archived_messages(db, older_than=HOUR) for _ in range(3)),
        *(reaping.dead_letters(db, older_than=HOUR) for _ in range(3)),
        messages.replay_matching(db, producer.queue),
    )
    assert sum(removed[:3]) == 8000
    assert sum(removed[3:]) == 8000


async def test_stopped_workers_that_touched_messages_are_removed(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    (sent,) = await producer.enqueue_batch(["x"])
    await consumer.dequeue()
    await consumer.archive(sent)
    await lifecycle.stop(admin.database, [producer.worker_id, consumer.worker_id], reason="test")
    nobody = await lifecycle.register(admin.database, None, hostname="nobody")
    await lifecycle.stop(admin.database, [nobody.id], reason="test")
    async with pgqrs.Consumer(admin, "emails") as alive:
        db = admin.database
        assert await reaping.stopped_workers(db) == 0
        assert await reaping.stopped_workers(db, older_than=HOUR) == 0
        await connection.execute("UPDATE pgqrs_workers SET shutdown_at = now() - interval '2 hours'")
        assert await reaping.stopped_workers(db, older_than=HOUR, queue="letters") == 0
        assert await reaping.stopped_workers(db, older_than=HOUR, queue="emails") == 2
        assert await reaping.stopped_workers(db, older_than=HOUR) == 1
        assert [worker.id for worker in await (await admin.get_workers()).list()] == [alive.worker_id]
    assert (await admin.queue_counts("emails")).archived == 1


async def test_before_the_post_part_workers_stay_that_messages_refer_to(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqrs.reaping._REFERRED_BATCH", 2)
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install(phase="pre")
        await admin.create_queue("emails")
        async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
            sent, _ = await producer.enqueue_batch([1, 2])
            await consumer.dequeue()
            await consumer.archive(sent)
        for _ in range(5):
            async with pgqrs.Consumer(admin, "emails"):
                pass
        workers = await admin.get_workers()
        touched = {producer.worker_id, consumer.worker_id}
        everybody = {worker.id for worker in await workers.list()}
        assert {worker.id for worker in await workers.purgeable(timedelta())} == everybody - touched
        assert await workers.purge(timedelta()) == 5
        assert {worker.id for worker in await workers.list()} == touched
        for worker_id in touched:
            with pytest.raises(pgqrs.DatabaseError, match=rf"Worker {worker_id} cannot be deleted.*phase=\"post\""):
                await admin.delete_worker(worker_id)
        await admin.install(phase="post")
        await admin.delete_worker(producer.worker_id)
        assert [worker.id for worker in await workers.purgeable(timedelta())] == [consumer.worker_id]
        assert await workers.purge(timedelta()) == 1


async def test_a_worker_that_a_workflow_s_run_refers_to_stays(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await _workflow_run(connection, await producer.enqueue(1))
    await connection.execute("UPDATE pgqrs_workflow_runs SET worker_id = $1", consumer.worker_id)
    await lifecycle.stop(admin.database, [consumer.worker_id, producer.worker_id], reason="test")
    with pytest.raises(pgqrs.DatabaseError, match="runs of upstream's workflows refer to it"):
        await admin.delete_worker(consumer.worker_id)
    assert await reaping.stopped_workers(admin.database, older_than=timedelta()) == 1
    assert [worker.id for worker in await (await admin.get_workers()).list()] == [consumer.worker_id]


async def test_a_silent_worker_is_stopped_and_what_it_held_is_free(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await producer.enqueue_batch([1, 2, 3])
    await consumer.dequeue(2)
    await connection.execute(
        "UPDATE pgqrs_workers SET heartbeat_at = now() - interval '55 seconds' WHERE id = $1", consumer.worker_id
    )
    assert await reaping.silent_workers(admin.database) == {}
    await connection.execute("UPDATE pgqrs_queues SET heartbeat_timeout = '50 seconds' WHERE queue_name = 'letters'")
    assert await reaping.silent_workers(admin.database) == {}
    await connection.execute("UPDATE pgqrs_queues SET heartbeat_timeout = '50 seconds'")
    assert await reaping.silent_workers(admin.database, queue="letters") == {}
    reaped = await asyncio.gather(*(reaping.silent_workers(admin.database) for _ in range(3)))
    assert [one for one in reaped if one] == [{consumer.worker_id: 2}]
    worker = await lifecycle.get(admin.database, consumer.worker_id)
    assert (worker.status, worker.stop_reason) == (WorkerStatus.STOPPED, "silent for longer than the heartbeat timeout")
    assert (await admin.queue_counts("emails")).ready == 3
    assert await producer.status() is WorkerStatus.READY


async def test_more_silent_workers_than_a_batch_are_all_stopped(
    admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await admin.create_queue("emails")
    await connection.execute(
        "INSERT INTO pgqrs_workers (name, queue_id, heartbeat_at) SELECT 'w' || n, q.id, now() - interval '1 hour' "
        "FROM generate_series(1, 250) n, pgqrs_queues q"
    )
    assert len(await reaping.silent_workers(admin.database)) == 250


async def test_a_lease_that_ran_out_at_the_read_limit_is_a_dead_letter_without_a_dequeue(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await admin.set_policy("emails", pgqrs.QueuePolicy(read_limit=2))
    out, running, early = await producer.enqueue_batch(["out", "running", "early"])
    await consumer.dequeue(3)
    await connection.execute("UPDATE pgqrs_messages SET read_ct = 2 WHERE id = ANY($1)", [out, running])
    await connection.execute("UPDATE pgqrs_messages SET vt = now() - interval '1 s' WHERE id = ANY($1)", [out, early])
    assert await reaping.exhausted_messages(admin.database, queue="letters") == 0
    assert await reaping.exhausted_messages(admin.database) == 1
    (letter,) = await (await admin.get_messages()).dead_letters("emails")
    assert (letter.id, letter.reason) == (out, "leased 2 times, the limit is 2")
    assert await consumer.archive(out) is False
    assert await consumer.archive_many([running, early]) == [True, True]


async def test_what_was_released_at_the_read_limit_is_a_dead_letter_without_a_dequeue(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    await admin.set_policy("emails", pgqrs.QueuePolicy(read_limit=1))
    released, delayed, held = await producer.enqueue_batch(["released", "delayed", "held"])
    waiting = await producer.enqueue("waiting")
    await consumer.dequeue(3)
    assert await consumer.release(released)
    assert await consumer.release(delayed, delay=HOUR)
    assert await reaping.exhausted_messages(admin.database, queue="letters") == 0
    assert await reaping.exhausted_messages(admin.database) == 1
    (letter,) = await (await admin.get_messages()).dead_letters("emails")
    assert (letter.id, letter.reason) == (released, "leased 1 times, the limit is 1")
    assert await admin.queue_counts("emails") == pgqrs.QueueCounts(ready=1, delayed=1, leased=1, dead=1)
    assert await consumer.archive(held)
    assert [message.id for message in await consumer.dequeue(5)] == [waiting]


async def test_more_released_messages_than_are_looked_at_at_a_time_all_die(
    producer: pgqrs.Producer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await producer.enqueue("waiting")
    await connection.execute(
        "INSERT INTO pgqrs_messages (queue_id, payload, read_ct, vt, enqueued_at) "
        "SELECT q.id, '1', 5, now() - interval '1 hour', now() FROM generate_series(1, 250) n, pgqrs_queues q"
    )
    assert sum(await asyncio.gather(*(reaping.exhausted_messages(admin.database) for _ in range(3)))) == 500
    assert await admin.queue_counts("emails") == pgqrs.QueueCounts(ready=1, dead=250)


async def test_an_admin_reaps_purges_and_sets_retention(admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    await admin.set_retention("emails", pgqrs.QueueRetention(archived=timedelta(0)))
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        await producer.enqueue_batch([1, 2, 3])
        (message,) = await consumer.dequeue()
        await consumer.archive(message.id)
    assert (await admin.reap()).archived_messages == 1
    assert await admin.purge_queue("emails") == 2
    assert await (await admin.get_messages()).count() == 0


async def test_who_names_a_queue_almost_right_is_told_the_right_one(admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    with pytest.raises(pgqrs.QueueNotFoundError, match="Did you mean 'emails'"):
        await pgqrs.Consumer(admin, "email").start()
