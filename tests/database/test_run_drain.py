"""`Consumer.run`: how it ends, by a drain, a signal or a cancellation, and how it stands still meanwhile."""

from __future__ import annotations

import asyncio
import signal
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import pgqrs
from tests.support.children import child
from tests.support.consuming import QUEUE, Stage, becomes, eventually, nothing, running, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn) as made:
        yield made


@pytest.fixture
async def consumer(stage: Stage) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(stage.dsn, QUEUE) as opened:
        yield opened


class Gate:
    """A handler that waits, and tells what it began and what was cancelled."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def __call__(self, message: pgqrs.Message) -> None:
        self.begun.append(message.id)
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message.id)
            raise

    async def count(self) -> int:
        return len(self.begun)


async def test_a_drain_waits_for_handlers_and_leaves_the_rest_untouched(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(100)
    gate = Gate()
    async with running(consumer, gate, concurrency=3) as run:
        await becomes(gate.count, 3)
        drain = asyncio.create_task(consumer.drain())
        await becomes(lambda: stage.status(consumer.worker_id), "interrupted")
        assert not run.done()
        gate.open()
        assert await drain == 0
        await asyncio.wait_for(run, 20)
    assert (len(gate.begun), gate.cancelled) == (3, [])
    assert await stage.archived() == 3
    assert await stage.untouched() == 97
    assert await stage.status(consumer.worker_id) == "stopped"


async def test_what_was_leased_ahead_is_given_back_by_a_drain(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(3000)
    begun = 0
    go = asyncio.Event()

    async def turning(_: pgqrs.Message) -> None:
        nonlocal begun
        begun += 1
        if begun > 500:
            await go.wait()

    async with running(consumer, turning, concurrency=2) as run:
        await becomes(lambda: begun, 502)
        drain = asyncio.create_task(consumer.drain())
        await becomes(lambda: stage.held(consumer.worker_id), 2)
        go.set()
        await drain
        await asyncio.wait_for(run, 20)
    assert begun == 502
    assert await stage.archived() == 502
    assert await stage.untouched() == 2498


async def test_a_drain_that_takes_too_long_cancels_handlers(stage: Stage, consumer: pgqrs.Consumer) -> None:
    """Otherwise another worker would begin with what this one goes on with, however long its leases are."""
    (sent,) = await stage.send(1)
    gate = Gate()
    async with running(consumer, gate, lease=timedelta(hours=1)) as run:
        await becomes(gate.count, 1)
        assert await consumer.drain(timedelta(milliseconds=100)) == 1
        await asyncio.wait_for(run, 20)
    assert gate.cancelled == [sent]
    assert (await stage.admin.queue_counts(QUEUE)).ready == 1


@pytest.mark.parametrize("plain", [False, True], ids=["awaited", "in threads"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(stage: Stage, number: signal.Signals, *, plain: bool) -> None:
    sent = await stage.producer.enqueue_batch(["wait"] * 5 + ["later"] * 95)
    async with child(stage.dsn, concurrency=5, plain=plain) as app:
        await app.begun(*sent[:5])
        app.send(number)
        await becomes(lambda: stage.status(app.worker_id), "interrupted")
        app.go()
        assert await app.exit_code() == 0, app.log
        await app.ended(*sent[:5])
        assert await stage.status(app.worker_id) == "stopped"
        assert app.lines[-1] == ["returned"]
    assert await stage.archived_ids() == set(sent[:5])
    assert await stage.untouched() == 95
    assert await stage.held() == 0


@pytest.mark.parametrize("plain", [False, True], ids=["awaited", "in threads"])
async def test_a_second_signal_ends_now_and_frees_what_is_held(stage: Stage, *, plain: bool) -> None:
    sent = await stage.producer.enqueue_batch(["wait"] * 2 + ["later"] * 20)
    async with child(stage.dsn, concurrency=2, plain=plain) as app:
        await app.begun(*sent[:2])
        app.send(signal.SIGTERM)
        await becomes(lambda: stage.status(app.worker_id), "interrupted")
        app.send(signal.SIGINT)
        assert await app.exit_code() == 0, app.log
        assert app.said("ended") == []
        assert await stage.status(app.worker_id) == "stopped"
    assert await stage.untouched() == 22


async def test_a_drain_by_a_signal_cancels_handlers_when_its_time_is_over(stage: Stage) -> None:
    (sent,) = await stage.producer.enqueue_batch(["wait"])
    async with child(stage.dsn, drain_timeout=0.3) as app:
        await app.begun(sent)
        app.send(signal.SIGTERM)
        assert await app.exit_code() == 0, app.log
        assert app.said("ended") == []
    assert await stage.untouched() == 1


async def test_a_paused_queue_stands_still_until_it_is_resumed(stage: Stage, consumer: pgqrs.Consumer) -> None:
    policy = (await stage.admin.get_queue(QUEUE)).policy
    await stage.admin.set_policy(QUEUE, replace(policy, paused=True))
    await stage.send(10)
    gate = Gate()
    gate.open()
    async with running(consumer, gate):
        await stage.asked_again()
        await stage.asked_again()
        assert gate.begun == []
        await stage.admin.set_policy(QUEUE, policy)
        await becomes(stage.archived, 10)


async def test_a_suspended_worker_begins_nothing_until_it_is_resumed(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(1)
    gate = Gate()
    async with running(consumer, gate, concurrency=5), pgqrs.WorkerHandle(stage.dsn, consumer.worker_id) as handle:
        await becomes(gate.count, 1)
        await stage.observer.execute("UPDATE pgqrs_workers SET status = 'interrupted' WHERE id = $1", handle.worker_id)
        await stage.send(20)
        gate.open()
        await becomes(stage.archived, 1)
        await handle.suspend()
        assert await stage.untouched() == 20
        assert len(gate.begun) == 1
        await handle.resume()
        await becomes(stage.archived, 21)


async def test_a_worker_that_is_stopped_from_outside_ends_with_an_error(stage: Stage, consumer: pgqrs.Consumer) -> None:
    (sent,) = await stage.send(1)
    gate = Gate()
    with pytest.raises(pgqrs.WorkerReplacedError):  # noqa: PT012 - the run is raised at its end
        async with running(consumer, gate, concurrency=1, lease=timedelta(hours=1)) as run:
            await becomes(gate.count, 1)
            async with pgqrs.WorkerHandle(stage.dsn, consumer.worker_id) as handle:
                await handle.drain(timedelta())
            await asyncio.wait([run], timeout=20)
            assert run.done()
    assert gate.cancelled == [sent]
    async with pgqrs.Consumer(stage.dsn, QUEUE) as other:
        assert [message.id for message in await other.dequeue()] == [sent]


async def test_a_consumer_that_is_closed_ends_its_run(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(2)
    gate = Gate()
    async with running(consumer, gate) as run:
        await becomes(gate.count, 2)
        await consumer.aclose()
        await asyncio.wait([run], timeout=30)
        assert run.done()
        run.cancelled()
    assert sorted(gate.cancelled) == sorted(gate.begun)
    assert (await stage.admin.queue_counts(QUEUE)).ready == 2


async def test_a_cancelled_run_leaks_nothing(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(50)
    await stage.producer.heartbeat()
    await consumer.heartbeat()
    before = asyncio.all_tasks()
    gate = Gate()
    async with running(consumer, gate, concurrency=5) as run:
        await becomes(gate.count, 5)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert {task for task in asyncio.all_tasks() if task.get_name().startswith("pgqrs-")} <= before
        assert sorted(gate.cancelled) == sorted(gate.begun)
        assert await stage.untouched() == 50
        # The worker is still good for another run.
        gate.open()
        async with running(consumer, gate):
            await becomes(stage.archived, 50)


async def test_a_run_cancelled_in_the_middle_of_an_exchange_loses_and_repeats_nothing(
    stage: Stage, consumer: pgqrs.Consumer
) -> None:
    """What a handler ended is told even so, and what was leased by the lost answer is given back."""
    first, *rest = await stage.send(3)
    gate = Gate()
    async with running(consumer, gate, concurrency=1, lease=timedelta(hours=1)) as run:
        await becomes(gate.count, 1)
        async with stage.locked("pgqrs_workers", consumer.worker_id):
            gate.open()
            pids = await eventually(stage.waiting)
            run.cancel()

            async def given_up() -> bool:
                return not set(pids) & set(await stage.waiting())

            # Rolled back, so that nothing of it took effect.
            await eventually(given_up)
        with pytest.raises(asyncio.CancelledError):
            await run
    assert gate.begun == [first]
    assert await stage.archived_ids() == {first}
    assert await stage.untouched() == len(rest)


async def test_a_function_in_a_thread_does_not_hold_up_a_cancelled_run(stage: Stage, consumer: pgqrs.Consumer) -> None:
    (sent,) = await stage.send(1)
    begun, go = threading.Event(), threading.Event()

    def wait(_: pgqrs.Message) -> None:
        begun.set()
        go.wait(60)

    try:
        async with running(consumer, wait) as run:
            await asyncio.to_thread(begun.wait, 20)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(run, 20)
            assert not go.is_set()
        assert (await stage.row(sent))["consumer_worker_id"] is None
    finally:
        go.set()


async def test_one_consumer_runs_once_at_a_time(stage: Stage, consumer: pgqrs.Consumer) -> None:
    async with running(consumer, nothing):
        await stage.send(1)
        await becomes(stage.archived, 1)
        with pytest.raises(pgqrs.WorkerNotReadyError, match="runs already"):
            await consumer.run(nothing, signals=False)
        await stage.send(1)
        await becomes(stage.archived, 2)
