"""`Consumer.run`: how handlers are called, how many at a time, and what becomes of what is done."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from pgqrs.backoff import Backoff
from tests.support.consuming import QUEUE, Stage, becomes, nothing, running, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn) as made:
        yield made


@pytest.fixture
async def consumer(stage: Stage) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(stage.dsn, QUEUE) as opened:
        yield opened


async def test_handlers_run_at_once_but_never_more_than_allowed(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(40)
    now = most = 0
    go = asyncio.Event()

    async def handle(_: pgqrs.Message) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await go.wait()
        await asyncio.sleep(0)
        now -= 1

    async with running(consumer, handle, concurrency=7):
        await becomes(lambda: now, 7)
        go.set()
        await becomes(stage.archived, 40)
    assert most == 7


async def test_each_message_is_handled_once_in_order_and_archived(stage: Stage, consumer: pgqrs.Consumer) -> None:
    sent = await stage.send(1000)
    seen: list[pgqrs.Message] = []

    async def handle(message: pgqrs.Message) -> None:
        seen.append(message)

    async with running(consumer, handle):
        await becomes(stage.archived, 1000)
        late = await stage.producer.enqueue("late")
        await becomes(stage.archived, 1001)
    assert [message.id for message in seen] == [*sent, late]
    assert [message.payload for message in seen] == [*range(1000), "late"]
    assert {message.read_ct for message in seen} == {1}
    counts = await stage.admin.queue_counts(QUEUE)
    assert (counts.ready, counts.leased, counts.delayed, counts.dead) == (0, 0, 0, 0)


async def test_what_is_done_can_be_deleted_instead(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(300)
    messages = await stage.admin.get_messages()
    async with running(consumer, nothing, archive=False):
        await becomes(messages.count, 0)


async def test_one_message_is_completed_while_another_is_handled(stage: Stage, consumer: pgqrs.Consumer) -> None:
    """Completed messages never wait for the end of those that take long."""
    first, second = await stage.send(2)
    go = asyncio.Event()

    async def handle(message: pgqrs.Message) -> None:
        if message.id == first:
            await go.wait()

    async with running(consumer, handle, concurrency=2):
        await becomes(stage.archived_ids, {second})
        go.set()
        await becomes(stage.archived_ids, {first, second})


async def test_plain_functions_run_in_threads_at_once_and_do_not_block_the_loop(
    stage: Stage, consumer: pgqrs.Consumer
) -> None:
    await stage.send(5)
    together = threading.Barrier(6)
    threads: set[int] = set()

    def handle(_: pgqrs.Message) -> None:
        threads.add(threading.get_ident())
        together.wait(30)

    async with running(consumer, handle, concurrency=5):
        # Five wait for the sixth, which is this thread: its event loop is free all the while.
        await becomes(lambda: together.n_waiting, 5)
        together.wait(30)
        await becomes(stage.archived, 5)
    assert len(threads) == 5
    assert threading.get_ident() not in threads


async def test_never_more_threads_than_allowed(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(30)
    lock = threading.Lock()
    now = most = 0
    go = threading.Event()

    def handle(_: pgqrs.Message) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        go.wait(30)
        with lock:
            now -= 1

    async with running(consumer, handle, concurrency=3):
        await becomes(lambda: now, 3)
        go.set()
        await becomes(stage.archived, 30)
    assert most == 3


async def test_context_variables_of_the_caller_are_seen_by_handlers(stage: Stage, consumer: pgqrs.Consumer) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    name.set("the caller")
    seen: list[str] = []

    def plain(_: pgqrs.Message) -> None:
        seen.append(name.get())
        name.set("a handler")

    async def awaited(_: pgqrs.Message) -> None:
        plain(_)

    for number, handler in enumerate((plain, awaited)):
        await stage.send(2)
        async with running(consumer, handler, concurrency=1):
            await becomes(stage.archived, 2 * number + 2)
    assert seen == ["the caller"] * 4


class _Called:
    def __init__(self, seen: list[object]) -> None:
        self.seen = seen

    def __call__(self, message: pgqrs.Message) -> None:
        self.seen.append(message.payload)

    async def handle(self, message: pgqrs.Message) -> None:
        await asyncio.sleep(0)
        self.seen.append(message.payload)


class _Awaited(_Called):
    async def __call__(self, message: pgqrs.Message) -> None:  # type: ignore[override]
        await self.handle(message)


@pytest.mark.parametrize(
    "made",
    [
        _Called,
        _Awaited,
        lambda seen: _Called(seen).handle,
        lambda seen: functools.partial(_Called.handle, _Called(seen)),
        lambda seen: lambda message: _Called(seen).handle(message),
        lambda seen: lambda message: seen.append(message.payload),
    ],
    ids=["object", "awaited object", "method", "partial", "lambda that gives a coroutine", "lambda"],
)
async def test_anything_that_can_be_called_is_a_handler(
    stage: Stage, consumer: pgqrs.Consumer, made: Callable[[list[object]], Any]
) -> None:
    await stage.send(3)
    seen: list[object] = []
    async with running(consumer, made(seen)):
        await becomes(stage.archived, 3)
    assert sorted(map(str, seen)) == ["0", "1", "2"]


async def test_a_batch_handler_gets_lists_up_to_its_size(stage: Stage, consumer: pgqrs.Consumer) -> None:
    sent = await stage.send(25)
    seen: list[list[int]] = []

    async def handle(messages: list[pgqrs.Message]) -> None:
        seen.append([message.id for message in messages])

    async with running(consumer, handle, concurrency=1, batch_size=10):
        await becomes(stage.archived, 25)
        # One message is a list of one.
        await stage.producer.enqueue("alone")
        await becomes(stage.archived, 26)
    assert [len(batch) for batch in seen] == [10, 10, 5, 1]
    assert [message for batch in seen for message in batch][:25] == sent


async def test_a_batch_fails_together(stage: Stage, consumer: pgqrs.Consumer) -> None:
    sent = await stage.send(4)
    attempts: list[list[int]] = []

    def handle(messages: list[pgqrs.Message]) -> None:
        attempts.append([message.id for message in messages])
        if len(attempts) == 1:
            problem = "the first time"
            raise ValueError(problem)

    at_once = Backoff(first=timedelta(), most=timedelta())
    async with running(consumer, handle, concurrency=1, batch_size=4, backoff=at_once):
        await becomes(stage.archived, 4)
    assert sorted(attempts[0]) == sent
    assert sorted(message for batch in attempts[1:] for message in batch) == sent
    assert {(await stage.row(message))["read_ct"] for message in sent} == {2}
