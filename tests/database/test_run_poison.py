"""`Consumer.run`: no message ever stops the loop, whatever its handler does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from pgqrs.backoff import Backoff
from tests.support.children import Child, child
from tests.support.consuming import QUEUE, Stage, becomes, eventually, nothing, running, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AT_ONCE = Backoff(first=timedelta(), most=timedelta())


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn, pgqrs.QueuePolicy(read_limit=3)) as made:
        yield made


@pytest.fixture
async def consumer(stage: Stage) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(stage.dsn, QUEUE) as opened:
        yield opened


def _swallow(gone: asyncio.Event) -> Any:
    async def handle(_: pgqrs.Message) -> None:
        try:
            await gone.wait()
        except asyncio.CancelledError:
            problem = "swallowed"
            raise ValueError(problem) from None

    return handle


async def cancel_itself(_: object) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def raise_cancelled(_: object) -> None:
    raise asyncio.CancelledError


def raise_cancelled_in_thread(_: object) -> None:
    raise asyncio.CancelledError


async def stop_iteration(_: object) -> None:
    raise StopIteration


def stop_iteration_in_thread(_: object) -> None:
    raise StopIteration


class UnspeakableError(Exception):
    def __str__(self) -> str:
        problem = "there is no text"
        raise RuntimeError(problem)


async def unspeakable(_: object) -> None:
    raise UnspeakableError


async def no_exception(_: object) -> None:
    raise GeneratorExit


class Outcome(BaseException):
    """As those of pytest, which are no `Exception`."""


async def outcome(_: object) -> None:
    raise Outcome


def outcome_in_thread(_: object) -> None:
    raise Outcome


async def group(_: object) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(outcome(_))


@pytest.mark.parametrize(
    "poison",
    [
        cancel_itself,
        raise_cancelled,
        raise_cancelled_in_thread,
        stop_iteration,
        stop_iteration_in_thread,
        unspeakable,
        no_exception,
        outcome,
        outcome_in_thread,
        group,
        _swallow(asyncio.Event()),
    ],
    ids=lambda poison: getattr(poison, "__name__", "swallows"),
)
async def test_a_poison_message_never_stops_the_loop(stage: Stage, consumer: pgqrs.Consumer, poison: Any) -> None:
    """It is put aside after as many attempts as allowed, and all others are handled."""
    (sent,) = await stage.send(1)
    await stage.producer.enqueue_batch(["fine"] * 20)
    plain = not asyncio.iscoroutinefunction(poison)

    def handle_in_thread(message: pgqrs.Message) -> None:
        if message.id == sent:
            poison(message)

    async def handle(message: pgqrs.Message) -> None:
        if message.id == sent:
            await poison(message)

    async with running(
        consumer,
        handle_in_thread if plain else handle,
        concurrency=1,
        backoff=AT_ONCE,
        time_limit=timedelta(milliseconds=200),
    ) as run:
        reasons = await eventually(stage.dead)
        await becomes(stage.archived, 20)
        await stage.producer.enqueue("fine")
        await becomes(stage.archived, 21)
        assert not run.done()
    assert reasons.keys() == {sent}
    assert reasons[sent].startswith("failed 3 times, at last with ")


@pytest.mark.parametrize("plain", [False, True], ids=["awaited", "in a thread"])
async def test_a_message_that_ends_its_process_is_put_aside_in_the_end(stage: Stage, *, plain: bool) -> None:
    """Otherwise one message would end every process that is handed it, for ever."""
    sent = await stage.producer.enqueue("exit")
    for _ in range(3):
        async with child(stage.dsn, plain=plain) as app:

            async def over(app: Child = app) -> bool:
                return app.has_ended or bool(await stage.dead())

            await eventually(over)
    async with pgqrs.Consumer(stage.dsn, QUEUE) as other, running(other, nothing):
        await eventually(lambda: _archived(stage, sent))
    assert (await stage.dead()).keys() == {sent}


async def _archived(stage: Stage, message_id: int) -> bool:
    return (await stage.row(message_id))["archived_at"] is not None
