"""`Consumer.run` and signals where more than one run, or more than the handlers, is in the way."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

import pgqrs
from tests.support.children import child
from tests.support.consuming import QUEUE, Stage, becomes, eventually, nothing, running, staged, through
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.postgres import PostgresServer

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn) as made:
        yield made


@pytest.fixture
async def consumer(stage: Stage) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(stage.dsn, QUEUE) as opened:
        yield opened


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What the app's own handlers of signals hear; no signal ends the tests."""
    numbers: list[int] = []
    before = [signal.signal(number, lambda got, _: numbers.append(got)) for number in NUMBERS]
    yield numbers
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


async def test_handlers_of_signals_are_as_they_were_afterwards(
    stage: Stage, consumer: pgqrs.Consumer, heard: list[int]
) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    async with running(consumer, nothing, signals=True) as run:
        await stage.send(1)
        await becomes(stage.archived, 1)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(run, 20)
    assert heard == []
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert await stage.status(consumer.worker_id) == "stopped"
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGTERM, signal.SIGINT]


async def test_signals_can_be_left_to_the_app(stage: Stage, consumer: pgqrs.Consumer, heard: list[int]) -> None:
    async with running(consumer, nothing, signals=False) as run:
        await stage.send(1)
        await becomes(stage.archived, 1)
        signal.raise_signal(signal.SIGTERM)
        await stage.send(1)
        await becomes(stage.archived, 2)
        assert not run.done()
    assert heard == [signal.SIGTERM]


async def test_a_signal_drains_all_consumers_of_a_process(
    stage: Stage, consumer: pgqrs.Consumer, heard: list[int]
) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    async with (
        pgqrs.Consumer(stage.dsn, QUEUE) as other,
        running(consumer, nothing, signals=True) as one,
        running(other, nothing, signals=True) as two,
    ):
        await stage.send(1)
        await becomes(stage.archived, 1)
        # Both run: each asks for messages on connections of its own.
        await stage.asked_again()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait([one, two], timeout=20)
        assert (one.done(), two.done()) == (True, True)
    assert heard == []
    assert [signal.getsignal(number) for number in NUMBERS] == before


async def test_a_run_hears_signals_after_another_one_has_ended(
    stage: Stage, consumer: pgqrs.Consumer, heard: list[int]
) -> None:
    async with pgqrs.Consumer(stage.dsn, QUEUE) as other, running(consumer, nothing, signals=True) as one:
        await stage.asked_again()
        async with running(other, nothing, signals=True) as two:
            await stage.asked_again()
            await other.drain()
            await asyncio.wait_for(two, 20)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait([one], timeout=20)
        assert one.done()
    assert heard == []


@pytest.mark.parametrize("swallowed", [False, True], ids=["refused", "swallowed"])
@pytest.mark.parametrize("signals", [1, 2])
async def test_a_process_ends_by_signals_also_without_its_database(
    stage: Stage, postgres: PostgresServer, *, signals: int, swallowed: bool
) -> None:
    """One signal is enough where no handler runs; with one that hangs it takes two."""
    async with Proxy(postgres.port) as proxy, child(through(proxy, stage.dsn), concurrency=1) as app:
        if signals == 2:
            (sent,) = await stage.producer.enqueue_batch(["wait"])
            await app.begun(sent)
        else:
            await stage.asked_again()
        if swallowed:
            proxy.swallow()
        else:
            proxy.server = ("127.0.0.1", 1)
            proxy.cut()
        for _ in range(signals):
            app.send(signal.SIGTERM)
            # Two that come at once are one for the kernel.
            await app.logged("draining")
        assert await app.exit_code(within=60) == 0, app.log
        assert app.lines[-1] == ["returned"]


async def test_a_second_signal_does_not_wait_for_a_statement_under_way(stage: Stage) -> None:
    async with child(stage.dsn, concurrency=1) as app, stage.locked("pgqrs_workers", app.worker_id):
        await stage.send(1)
        await eventually(stage.waiting)
        app.send(signal.SIGTERM)
        await app.logged("draining")
        app.send(signal.SIGTERM)
        # Less than the deadline of a statement, which is 30 seconds.
        assert await app.exit_code(within=25) == 0, app.log
