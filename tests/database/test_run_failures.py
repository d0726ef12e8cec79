"""`Consumer.run`: what fails is tried again later, then put aside with a reason."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from pgqrs.backoff import Backoff
from pgqrs.errors import DeadLetter, Retry
from tests.support.consuming import QUEUE, Stage, becomes, eventually, nothing, running, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

AT_ONCE = Backoff(first=timedelta(), most=timedelta())
BUSY = "too many requests"


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn, pgqrs.QueuePolicy(read_limit=3)) as made:
        yield made


@pytest.fixture
async def consumer(stage: Stage) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(stage.dsn, QUEUE) as opened:
        yield opened


async def refuse(_: object) -> None:
    problem = "no such address"
    raise ValueError(problem)


async def put_aside(stage: Stage, count: int = 1) -> dict[int, str]:
    """Wait until there are so many dead letters, and give their reasons."""

    async def look() -> bool:
        return len(await stage.dead()) == count

    await eventually(look)
    return await stage.dead()


async def test_what_fails_is_tried_again_and_succeeds(stage: Stage, consumer: pgqrs.Consumer) -> None:
    sent = await stage.send(5)
    attempts: Counter[int] = Counter()

    async def handle(message: pgqrs.Message) -> None:
        attempts[message.id] += 1
        assert message.read_ct == attempts[message.id]
        if attempts[message.id] < 3:
            await refuse(message)

    async with running(consumer, handle, backoff=AT_ONCE):
        await becomes(stage.archived, 5)
    assert attempts == dict.fromkeys(sent, 3)
    assert await stage.dead() == {}


async def test_a_message_waits_for_its_back_off_and_nobody_holds_it(stage: Stage, consumer: pgqrs.Consumer) -> None:
    (sent,) = await stage.send(1)
    async with running(consumer, refuse, backoff=Backoff(first=timedelta(hours=1), most=timedelta(days=1))):
        row = await eventually(lambda: failed_once(stage, sent))
    # Half of it is up to chance.
    assert 29 * 60 < row["delay"] <= 60 * 60
    assert row["read_ct"] == 1
    assert (await stage.admin.queue_counts(QUEUE)).delayed == 1


async def failed_once(stage: Stage, message_id: int) -> Any:
    row = await stage.row(message_id)
    return row if row["read_ct"] and row["consumer_worker_id"] is None else None


async def test_each_back_off_is_longer_than_the_one_before(stage: Stage, consumer: pgqrs.Consumer) -> None:
    (sent,) = await stage.send(1)
    delays: list[float] = []
    backoff = Backoff(first=timedelta(hours=1), factor=3, most=timedelta(days=1), jitter=0)
    async with running(consumer, refuse, backoff=backoff):
        for attempt in (1, 2):

            async def failed(attempt: int = attempt) -> Any:
                row = await stage.row(sent)
                return row if row["read_ct"] == attempt and row["consumer_worker_id"] is None else None

            delays.append((await eventually(failed))["delay"])
            await stage.observer.execute("UPDATE pgqrs_messages SET vt = now() WHERE id = $1", sent)
        await put_aside(stage)
    assert delays == [pytest.approx(3600, abs=30), pytest.approx(3 * 3600, abs=30)]


async def test_what_failed_as_often_as_the_queue_allows_is_put_aside(stage: Stage, consumer: pgqrs.Consumer) -> None:
    (sent,) = await stage.send(1)
    async with running(consumer, refuse, backoff=AT_ONCE):
        reasons = await put_aside(stage)
        await stage.producer.enqueue("another")
        await put_aside(stage, 2)
    assert reasons == {sent: "failed 3 times, at last with ValueError: no such address"}
    row = await stage.row(sent)
    assert (row["read_ct"], row["consumer_worker_id"]) == (3, None)
    (letter, _) = await (await stage.admin.get_messages()).dead_letters(QUEUE)
    assert letter.reason == reasons[sent]


async def test_a_handler_says_when_it_wants_to_try_again(stage: Stage, consumer: pgqrs.Consumer) -> None:
    sent = await stage.send(2)

    async def handle(message: pgqrs.Message) -> None:
        after = timedelta(hours=5) if message.payload == 0 else None
        raise Retry(BUSY, after=after)

    async with running(consumer, handle, backoff=Backoff(first=timedelta(hours=1), jitter=0)):
        delays = [(await eventually(functools.partial(failed_once, stage, one)))["delay"] for one in sent]
    assert delays == [pytest.approx(5 * 3600, abs=30), pytest.approx(3600, abs=30)]


async def test_retries_on_request_end_at_the_limit_too(stage: Stage, consumer: pgqrs.Consumer) -> None:
    (sent,) = await stage.send(1)

    def handle(_: pgqrs.Message) -> None:
        raise Retry(BUSY, after=timedelta())

    async with running(consumer, handle):
        assert await put_aside(stage) == {sent: "failed 3 times, at last with Retry: too many requests"}


async def test_a_handler_puts_a_message_aside(stage: Stage, consumer: pgqrs.Consumer) -> None:
    (sent,) = await stage.send(1)

    async def handle(_: pgqrs.Message) -> None:
        reason = "there is nobody to send it to"
        raise DeadLetter(reason)

    async with running(consumer, handle):
        assert await put_aside(stage) == {sent: "there is nobody to send it to"}
    assert (await stage.row(sent))["read_ct"] == 1


@pytest.mark.parametrize("kind", [DeadLetter, ValueError])
async def test_a_reason_may_be_any_text(
    stage: Stage, consumer: pgqrs.Consumer, kind: Callable[[str], Exception]
) -> None:
    (sent,) = await stage.send(1)

    async def handle(_: pgqrs.Message) -> None:
        raise kind("nul \0, half a pair \ud83d, and long " + "x" * 10_000)

    async with running(consumer, handle, backoff=AT_ONCE):
        reason = (await put_aside(stage))[sent]
    assert "nul \ufffd, half a pair \ufffd, and long xxx" in reason
    assert len(reason) <= 4100


@pytest.mark.parametrize("plain", [False, True], ids=["awaited", "in a thread"])
async def test_a_time_limit_makes_a_failure(stage: Stage, consumer: pgqrs.Consumer, *, plain: bool) -> None:
    (sent,) = await stage.send(1)
    go = threading.Event()

    async def wait(_: pgqrs.Message) -> None:
        await asyncio.Event().wait()

    def wait_in_thread(_: pgqrs.Message) -> None:
        go.wait(60)

    try:
        async with running(
            consumer,
            wait_in_thread if plain else wait,
            time_limit=timedelta(milliseconds=50),
            backoff=AT_ONCE,
            concurrency=3,
        ):
            reason = (await put_aside(stage))[sent]
    finally:
        go.set()
    assert reason.startswith("failed 3 times, at last with TimeoutError: ")
    assert "0.05 s" in reason


async def test_a_function_that_overruns_its_time_keeps_its_place(stage: Stage, consumer: pgqrs.Consumer) -> None:
    """Threads cannot be stopped: more must not run at a time than was allowed."""
    await stage.send(3)
    go = threading.Event()
    begun: list[int] = []

    def wait(message: pgqrs.Message) -> None:
        begun.append(message.id)
        go.wait(60)

    try:
        async with running(
            consumer,
            wait,
            time_limit=timedelta(milliseconds=50),
            concurrency=2,
            backoff=Backoff(first=timedelta(hours=1)),
        ):

            async def delayed() -> int:
                return (await stage.admin.queue_counts(QUEUE)).delayed

            await becomes(delayed, 2)
            # The third is not begun: a message that is begun now would be seen before this round trip ends.
            late = asyncio.create_task(consumer.heartbeat())
            await late
            assert len(begun) == 2
            assert await delayed() == 2
            go.set()
            await becomes(lambda: len(begun), 3)
    finally:
        go.set()


class Picky:
    """A codec that cannot read everything."""

    def dumps(self, value: object, /) -> str:
        return f'"{value}"'

    def loads(self, text: str, /) -> object:
        if "poison" in text:
            raise RuntimeError(text)
        return text.strip('"')


async def test_what_the_codec_cannot_read_is_put_aside(stage: Stage) -> None:
    sent = await stage.producer.enqueue_batch(["fine", "poison", "fine"])
    async with pgqrs.Consumer(stage.dsn, QUEUE, codec=Picky()) as consumer, running(consumer, nothing):
        assert await put_aside(stage) == {sent[1]: "the codec cannot read the payload (RuntimeError)"}
        await becomes(stage.archived_ids, {sent[0], sent[2]})


async def test_ten_thousand_messages_of_which_one_in_a_hundred_fails(stage: Stage, consumer: pgqrs.Consumer) -> None:
    sent = await stage.send(10_000)
    attempts: Counter[int] = Counter()

    async def handle(message: pgqrs.Message) -> None:
        attempts[message.id] += 1
        if message.payload % 100 == 0:
            await refuse(message)

    async with running(consumer, handle, backoff=AT_ONCE):
        await put_aside(stage, 100)
        await becomes(stage.archived, 9900)
    bad = set(sent[::100])
    assert (await stage.dead()).keys() == bad
    assert await stage.archived_ids() == set(sent) - bad
    assert attempts == {message: 3 if message in bad else 1 for message in sent}
