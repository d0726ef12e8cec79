"""The life of a worker: who may hold a name, which transitions are allowed, and what fences a process out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

import pgqrs
from pgqrs import WorkerStatus, lifecycle, pods


@pytest.fixture
async def queue(admin: pgqrs.Admin) -> str:
    await admin.create_queue("emails")
    return "emails"


async def test_the_documented_life_of_a_worker(admin: pgqrs.Admin, queue: str) -> None:
    async with pgqrs.Consumer(admin, queue, "host", 3001) as consumer:
        assert await consumer.status() is WorkerStatus.READY
        await consumer.suspend()
        assert await consumer.status() == "suspended"
        await consumer.resume()
        await consumer.suspend()
        await consumer.shutdown()
        assert await consumer.status() is WorkerStatus.STOPPED


@pytest.mark.parametrize(
    ("path", "verb"),
    [
        ([], "resume"),
        ([], "shutdown"),
        (["suspend"], "suspend"),
        (["suspend", "shutdown"], "suspend"),
        (["suspend", "shutdown"], "resume"),
        (["suspend", "shutdown"], "shutdown"),
    ],
)
async def test_any_other_transition_is_refused_and_changes_nothing(
    admin: pgqrs.Admin, queue: str, path: list[str], verb: str
) -> None:
    async with pgqrs.Consumer(admin, queue) as consumer:
        handle = pgqrs.WorkerHandle(admin, consumer.worker_id)
        for step in path:
            await getattr(handle, step)()
        before = await handle.status()
        with pytest.raises(pgqrs.InvalidStateTransitionError) as caught:
            await getattr(handle, verb)()
        assert caught.value.source is before
        assert await handle.status() is before


async def test_a_worker_with_leased_messages_cannot_be_suspended(admin: pgqrs.Admin, queue: str) -> None:
    async with pgqrs.Producer(admin, queue) as producer, pgqrs.Consumer(admin, queue) as consumer:
        await producer.enqueue_batch([1, 2])
        held = await consumer.dequeue(2)
        with pytest.raises(pgqrs.WorkerHasPendingMessagesError) as caught:
            await consumer.suspend()
        assert caught.value.count == 2
        await consumer.archive_many([message.id for message in held])
        await consumer.suspend()


async def test_paused_means_paused_whichever_way(admin: pgqrs.Admin, queue: str) -> None:
    async with pgqrs.Producer(admin, queue) as producer, pgqrs.Consumer(admin, queue) as consumer:
        await producer.enqueue("wait")
        await consumer.suspend()
        assert await consumer.dequeue() == []
        await consumer.resume()
        await lifecycle.interrupt(admin.database, consumer.worker_id)
        assert await consumer.dequeue() == []
        await consumer.suspend()
        await consumer.resume()
        await admin.set_policy(queue, pgqrs.QueuePolicy(paused=True))
        assert await consumer.dequeue() == []
        await admin.set_policy(queue, pgqrs.QueuePolicy())
        assert [message.payload for message in await consumer.dequeue()] == ["wait"]


async def test_no_message_slips_through_while_a_worker_is_suspended(admin: pgqrs.Admin, queue: str, dsn: str) -> None:
    """At the same moment, either the suspension sees the lease or the dequeue sees the suspension."""
    async with (
        pgqrs.Producer(admin, queue) as producer,
        pgqrs.Consumer(dsn, queue) as consumer,
        pgqrs.Admin(dsn) as other,
    ):
        handle = pgqrs.WorkerHandle(other, consumer.worker_id)
        for _ in range(100):
            await producer.enqueue("x")
            fetched, suspended = await asyncio.gather(consumer.dequeue(), handle.suspend(), return_exceptions=True)
            assert isinstance(fetched, list)
            if fetched:
                assert isinstance(suspended, pgqrs.WorkerHasPendingMessagesError)
                await consumer.archive(fetched[0].id)
            else:
                assert suspended is None
                await consumer.resume()
                await consumer.archive((await consumer.dequeue())[0].id)


async def test_the_documented_comparisons_work(admin: pgqrs.Admin, queue: str) -> None:
    async with pgqrs.Consumer(admin, queue):
        (worker,) = await (await admin.get_workers()).filter_by_queue(queue)
    assert worker.updated_at is not None
    naive = datetime.now(UTC).replace(tzinfo=None)
    assert naive - timedelta(minutes=5) < worker.updated_at < naive + timedelta(minutes=5)
    assert worker.updated_at > naive - timedelta(minutes=5)
    assert worker.updated_at == worker.updated_at.replace(tzinfo=None)


async def test_an_identity_is_not_taken_from_somebody_alive(admin: pgqrs.Admin, queue: str) -> None:
    async with pgqrs.Consumer(admin, queue, "host", 3001) as consumer:
        rival = pgqrs.Consumer(admin, queue, "host", 3001)
        with pytest.raises(pgqrs.WorkerAlreadyActiveError) as caught:
            await rival.start()
        assert caught.value.free_at - caught.value.active_since >= timedelta(seconds=60)
        assert await consumer.status() is WorkerStatus.READY


async def test_the_identity_of_a_silent_worker_is_taken_and_the_old_id_is_fenced_out(
    admin: pgqrs.Admin, queue: str, dsn: str
) -> None:
    async with pgqrs.Producer(admin, queue) as producer, pgqrs.Consumer(admin, queue, "host", 3001) as old:
        await producer.enqueue("once")
        (message,) = await old.dequeue()
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "UPDATE pgqrs_workers SET heartbeat_at = now() - interval '1 hour' WHERE id = $1", old.worker_id
        )
        await connection.close()
        async with pgqrs.Consumer(admin, queue, "host", 3001) as new:
            assert new.worker_id != old.worker_id
            with pytest.raises(pgqrs.WorkerReplacedError):
                await old.archive(message.id)
            with pytest.raises(pgqrs.WorkerReplacedError):
                await old.dequeue()
            with pytest.raises(pgqrs.WorkerReplacedError):
                await old.heartbeat()
            (again,) = await new.dequeue()
            assert (again.id, again.read_ct) == (message.id, 2)
            assert await new.archive(again.id)
            history = await (await admin.get_workers()).get(old.worker_id)
            assert (history.name, history.hostname, history.port) == (f"host:3001#{old.worker_id}", "host", 3001)
            assert history.stop_reason == "replaced by a new registration"


async def test_replace_takes_the_identity_from_somebody_alive(admin: pgqrs.Admin, queue: str) -> None:
    async with (
        pgqrs.Consumer(admin, queue, "host", 3001) as old,
        pgqrs.Consumer(admin, queue, "host", 3001, replace=True),
    ):
        assert await old.status() is WorkerStatus.STOPPED


async def test_many_without_a_port_get_different_numbers(admin: pgqrs.Admin, queue: str) -> None:
    consumers = [pgqrs.Consumer(admin, queue, "host") for _ in range(20)]
    await asyncio.gather(*(consumer.start() for consumer in consumers))
    workers = await (await admin.get_workers()).filter_by_queue(queue)
    assert sorted(worker.port or 0 for worker in workers) == list(range(1, 21))
    for consumer in consumers:
        await consumer.aclose()


async def test_two_that_register_one_name_at_once_do_not_both_get_it(admin: pgqrs.Admin, queue: str) -> None:
    rivals = [pgqrs.Consumer(admin, queue, "host", 1) for _ in range(8)]
    outcomes = await asyncio.gather(*(rival.start() for rival in rivals), return_exceptions=True)
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, pgqrs.WorkerAlreadyActiveError) for outcome in outcomes) == 7
    for rival in rivals:
        await rival.aclose()


async def test_stopping_frees_everything_in_the_same_moment(admin: pgqrs.Admin, queue: str) -> None:
    async with (
        pgqrs.Producer(admin, queue) as producer,
        pgqrs.Consumer(admin, queue) as dead,
        pgqrs.Consumer(admin, queue) as other,
    ):
        await producer.enqueue_batch([1, 2, 3])
        await dead.dequeue(2)
        released = await lifecycle.stop(admin.database, [dead.worker_id], reason="test")
        assert released == {dead.worker_id: 2}
        assert [message.payload for message in await other.dequeue(10)] == [1, 2, 3], "the freed ones come first"


async def test_drain_waits_for_what_is_leased(admin: pgqrs.Admin, queue: str) -> None:
    async with pgqrs.Producer(admin, queue) as producer, pgqrs.Consumer(admin, queue) as consumer:
        await producer.enqueue_batch([1, 2])
        (message,) = await consumer.dequeue()
        draining = asyncio.create_task(consumer.drain(timedelta(seconds=20)))
        async with asyncio.timeout(10):
            while await consumer.status() is not WorkerStatus.INTERRUPTED:
                await asyncio.sleep(0.01)
        assert await consumer.dequeue() == []
        assert not draining.done()
        assert await consumer.archive(message.id)
        assert await draining == 0
        assert await consumer.status() is WorkerStatus.STOPPED


async def test_drain_frees_what_is_still_leased_at_its_deadline(admin: pgqrs.Admin, queue: str) -> None:
    async with pgqrs.Producer(admin, queue) as producer, pgqrs.Consumer(admin, queue) as consumer:
        await producer.enqueue("slow")
        await consumer.dequeue()
        assert await consumer.drain(timedelta(milliseconds=50)) == 1
        assert (await admin.queue_counts(queue)).ready == 1


async def test_a_stopped_worker_can_be_deleted_and_a_live_one_cannot(admin: pgqrs.Admin, queue: str) -> None:
    async with pgqrs.Producer(admin, queue) as producer:
        await producer.enqueue("x")
        with pytest.raises(pgqrs.InvalidStateTransitionError):
            await admin.delete_worker(producer.worker_id)
    await admin.delete_worker(producer.worker_id)
    with pytest.raises(pgqrs.WorkerNotFoundError):
        await admin.delete_worker(producer.worker_id)


async def test_a_worker_s_errors_name_what_is_missing(admin: pgqrs.Admin) -> None:
    with pytest.raises(pgqrs.QueueNotFoundError, match="nothing"):
        await pgqrs.Consumer(admin, "nothing").start()
    with pytest.raises(pgqrs.ConfigurationError, match="PGQRS_QUEUE"):
        pgqrs.Consumer(admin)
    with pytest.raises(pgqrs.ConfigurationError, match="PGQRS_DSN"):
        pgqrs.Consumer(queue="emails")
    with pytest.raises(pgqrs.ValidationError, match="port"):
        pgqrs.Consumer(admin, "emails", "host", -1)
    with pytest.raises(pgqrs.WorkerNotFoundError):
        await pgqrs.WorkerHandle(admin, 12345).status()


async def test_nobody_resumes_the_worker_of_a_pod_that_ends(admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    pod = pgqrs.PodIdentity(uid="u", name="web", namespace="shop")
    worker = await lifecycle.register(admin.database, "emails", hostname="web", pod=pod)
    await pods.begin_termination(admin.database, pod.uid)
    await pods.suspend(admin.database, pod.uid)
    with pytest.raises(pgqrs.InvalidStateTransitionError, match="its pod is ending"):
        await lifecycle.resume(admin.database, worker.id)
