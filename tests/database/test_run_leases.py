"""`Consumer.run`: what it leases ahead of its handlers, and for how long messages are its own."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from tests.support.consuming import QUEUE, Stage, becomes, eventually, nothing, running, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn) as made:
        yield made


@pytest.fixture
async def consumer(stage: Stage) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(stage.dsn, QUEUE) as opened:
        yield opened


async def test_slow_handlers_leave_the_rest_to_others(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(1000)
    begun: list[int] = []
    go = asyncio.Event()

    async def slow(message: pgqrs.Message) -> None:
        begun.append(message.id)
        await go.wait()

    async with running(consumer, slow, concurrency=2), pgqrs.Consumer(stage.dsn, QUEUE) as other:
        await becomes(lambda: len(begun), 2)
        assert await stage.held(consumer.worker_id) <= 4
        async with running(other, nothing):
            await becomes(stage.archived, 998)
        go.set()
        await becomes(stage.archived, 1000)
    assert len(begun) == 2


@pytest.mark.parametrize("lease", [timedelta(seconds=30), timedelta(seconds=2)], ids=str)
async def test_what_fast_handlers_leased_ahead_is_given_to_others_when_they_turn_slow(
    stage: Stage, consumer: pgqrs.Consumer, lease: timedelta
) -> None:
    sent = await stage.send(3000)
    begun: list[int] = []
    go = asyncio.Event()

    async def turning(message: pgqrs.Message) -> None:
        begun.append(message.id)
        if len(begun) > 1000:
            await go.wait()

    async with running(consumer, turning, concurrency=2, lease=lease), pgqrs.Consumer(stage.dsn, QUEUE) as other:
        await becomes(stage.archived, 1000)
        async with running(other, nothing):
            await becomes(stage.archived, 2998)
        assert await stage.untouched() == 0
        go.set()
        await becomes(stage.archived, 3000)
    assert len(begun) == 1002
    assert {(await stage.row(message))["read_ct"] for message in sent} == {1}, "leased ahead does not count"


@pytest.mark.parametrize("plain", [False, True], ids=["awaited", "in a thread"])
async def test_leases_are_renewed_while_a_handler_runs(stage: Stage, consumer: pgqrs.Consumer, *, plain: bool) -> None:
    (sent,) = await stage.send(1)
    go = threading.Event()
    stolen: list[int] = []

    async def wait(_: pgqrs.Message) -> None:
        while not go.is_set():
            await asyncio.sleep(0.01)

    def wait_in_thread(_: pgqrs.Message) -> None:
        go.wait(60)

    async def steal(message: pgqrs.Message) -> None:
        stolen.append(message.id)

    async def leased_until() -> Any:
        return (await stage.row(sent))["vt"]

    async with running(consumer, wait_in_thread if plain else wait, lease=timedelta(seconds=1)):
        await becomes(stage.held, 1)
        first = await leased_until()
        async with pgqrs.Consumer(stage.dsn, QUEUE) as other, running(other, steal):
            await eventually(lambda: _later(leased_until, first + timedelta(seconds=3)))
        go.set()
        await becomes(stage.archived, 1)
    assert stolen == []
    assert (await stage.row(sent))["read_ct"] == 1


async def _later(look: Callable[[], Awaitable[Any]], than: object) -> bool:
    return bool(await look() > than)
