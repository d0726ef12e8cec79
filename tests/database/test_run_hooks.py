"""`Consumer.run`: what stands around handlers, what it counts and traces, and which arguments it refuses."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

import pgqrs
from pgqrs.backoff import Backoff
from pgqrs.errors import DeadLetter
from tests.support.consuming import QUEUE, Stage, becomes, eventually, nothing, running, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

AT_ONCE = Backoff(first=timedelta(), most=timedelta())
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn, pgqrs.QueuePolicy(read_limit=2)) as made:
        yield made


@pytest.fixture
async def consumer(stage: Stage) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(stage.dsn, QUEUE) as opened:
        yield opened


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What is traced by an app that has set a tracer provider."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # The global one can be set only once in a process, and all other tests would trace, too.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


@pytest.mark.parametrize("plain", [False, True], ids=["awaited", "in a thread"])
async def test_the_first_middleware_is_the_outermost(stage: Stage, consumer: pgqrs.Consumer, *, plain: bool) -> None:
    await stage.send(1)
    seen: list[str] = []

    def named(name: str) -> Any:
        async def around(message: pgqrs.Message, handle: Callable[[Any], Awaitable[None]]) -> None:
            seen.append(f"{name} before {message.payload}")
            await handle(message)
            seen.append(f"{name} after")

        return around

    async def handle(message: pgqrs.Message) -> None:
        seen.append(f"handler {message.payload}")

    def handle_in_thread(message: pgqrs.Message) -> None:
        seen.append(f"handler {message.payload}")

    handler = handle_in_thread if plain else handle
    async with running(consumer, handler, middleware=[named("one"), named("two")]):
        await becomes(stage.archived, 1)
    assert seen == ["one before 0", "two before 0", "handler 0", "two after", "one after"]


async def test_what_a_middleware_raises_counts_as_raised_by_the_handler(stage: Stage, consumer: pgqrs.Consumer) -> None:
    raises, gives_up, fine, catches = await stage.send(4)
    handled: list[int] = []

    async def around(message: pgqrs.Message, handle: Callable[[Any], Awaitable[None]]) -> None:
        if message.id == raises:
            problem = "no licence"
            raise RuntimeError(problem)
        if message.id == gives_up:
            reason = "never"
            raise DeadLetter(reason)
        try:
            await handle(message)
        except ValueError:
            assert message.id == catches

    async def handle(message: pgqrs.Message) -> None:
        handled.append(message.id)
        if message.id == catches:
            raise ValueError

    async with running(consumer, handle, middleware=[around], backoff=AT_ONCE):
        await becomes(stage.archived_ids, {fine, catches})
        reasons = {raises: "failed 2 times, at last with RuntimeError: no licence", gives_up: "never"}
        await becomes(stage.dead, reasons)
    assert handled == [fine, catches]


async def test_middleware_of_a_batch_handler_gets_the_list(stage: Stage, consumer: pgqrs.Consumer) -> None:
    sent = await stage.send(3)
    seen: list[int] = []

    async def around(messages: list[pgqrs.Message], handle: Callable[[Any], Awaitable[None]]) -> None:
        seen.extend(message.id for message in messages)
        await handle(messages)

    async with running(consumer, nothing, batch_size=3, middleware=[around]):
        await becomes(stage.archived, 3)
    assert seen == sent


async def test_time_in_middleware_counts_for_the_time_limit(stage: Stage, consumer: pgqrs.Consumer) -> None:
    await stage.send(1)

    async def around(_: pgqrs.Message, __: object) -> None:
        await asyncio.Event().wait()

    async with running(consumer, nothing, middleware=[around], backoff=AT_ONCE, time_limit=timedelta(milliseconds=50)):
        await eventually(stage.dead)


def counted(queue: str) -> dict[str, float | None]:
    """What Prometheus is shown of a queue."""
    names = ("handled", "failed", "retried", "dead_lettered", "lost")
    return {
        **{
            name: REGISTRY.get_sample_value(f"pgqrs_consumer_messages_{name}_total", {"queue": queue}) for name in names
        },
        "in_flight": REGISTRY.get_sample_value("pgqrs_consumer_messages_in_flight", {"queue": queue}),
        "handler_seconds": REGISTRY.get_sample_value("pgqrs_consumer_handler_seconds_count", {"queue": queue}),
        "queue_seconds": REGISTRY.get_sample_value("pgqrs_consumer_queue_seconds_count", {"queue": queue}),
    }


async def test_what_prometheus_is_shown(admin: pgqrs.Admin) -> None:
    queue = "counted"
    await admin.create_queue(queue, pgqrs.QueuePolicy(read_limit=2))
    go = asyncio.Event()

    async def handle(message: pgqrs.Message) -> None:
        if message.payload == "wait":
            await go.wait()
        if message.payload == "never":
            raise DeadLetter(message.payload)
        if message.payload == "bad":
            raise ValueError(message.payload)

    async with (
        pgqrs.Producer(admin, queue) as producer,
        pgqrs.Consumer(admin, queue) as consumer,
        running(consumer, handle, backoff=AT_ONCE),
    ):
        await producer.enqueue_batch(["fine"] * 7 + ["never"] * 2 + ["bad"] + ["wait"] * 3)

        async def settled() -> bool:
            counts = await admin.queue_counts(queue)
            return (counts.archived, counts.dead, counts.leased) == (7, 3, 3)

        await eventually(settled)
        # 7 + 2 + 2 * 1 + 3 messages were leased, three of them run.
        expected = {
            "handled": 7, "failed": 4, "retried": 1, "dead_lettered": 3, "lost": 0, "in_flight": 3,
            "handler_seconds": 11, "queue_seconds": 14,
        }  # fmt: skip
        await becomes(lambda: counted(queue), expected)
        go.set()
        await becomes(lambda: counted(queue), expected | {"handled": 10, "in_flight": 0, "handler_seconds": 14})
    bucket = {"queue": queue, "le": "+Inf"}
    assert REGISTRY.get_sample_value("pgqrs_consumer_handler_seconds_bucket", bucket) == 14
    seconds = REGISTRY.get_sample_value("pgqrs_consumer_queue_seconds_sum", {"queue": queue})
    assert seconds is not None
    assert 0 <= seconds < 14 * 60


async def test_nothing_is_in_flight_after_a_cancelled_run(admin: pgqrs.Admin) -> None:
    """Also not what was to begin at the moment of the cancellation."""
    queue = "cancelled"
    await admin.create_queue(queue)
    task: asyncio.Task[None] | None = None
    handled = 0

    async def leased_ahead() -> bool:
        counts = await admin.queue_counts(queue)
        return counts.archived == handled and counts.leased > 1

    async def handle(_: pgqrs.Message) -> None:
        nonlocal handled
        for _look in range(5):
            if await leased_ahead():
                assert task is not None
                task.cancel()
                return
        handled += 1

    async with pgqrs.Producer(admin, queue) as producer, pgqrs.Consumer(admin, queue) as consumer:
        await producer.enqueue_batch([0] * 2000)
        async with running(consumer, handle, concurrency=1) as task:
            await asyncio.wait([task], timeout=60)
            assert task.cancelled()
    assert counted(queue)["in_flight"] == 0


async def test_a_span_is_the_child_of_the_trace_in_the_headers(
    stage: Stage, consumer: pgqrs.Consumer, spans: InMemorySpanExporter
) -> None:
    sent = await stage.producer.enqueue("x", headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "number": 5})
    inside: list[int] = []

    def handle(_: pgqrs.Message) -> None:
        inside.append(trace.get_current_span().get_span_context().span_id)

    async with running(consumer, handle):
        await becomes(stage.archived, 1)
        await stage.producer.enqueue("y")
        await becomes(stage.archived, 2)
    carried, fresh = spans.get_finished_spans()
    assert carried.name == f"process {QUEUE}"
    assert carried.kind is trace.SpanKind.CONSUMER
    assert carried.context is not None
    assert trace.format_trace_id(carried.context.trace_id) == TRACE
    assert carried.parent is not None
    assert trace.format_span_id(carried.parent.span_id) == PARENT
    assert carried.context.span_id == inside[0], "what the handler traces is part of it, also in a thread"
    assert carried.attributes is not None
    assert carried.attributes["messaging.message.id"] == str(sent)
    assert carried.attributes["messaging.destination.name"] == QUEUE
    assert fresh.parent is None


async def test_a_batch_is_linked_to_the_traces_of_its_messages(
    stage: Stage, consumer: pgqrs.Consumer, spans: InMemorySpanExporter
) -> None:
    await stage.producer.enqueue_batch(["x", "y"], headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    async with running(consumer, nothing, batch_size=10):
        await becomes(stage.archived, 2)
    (span,) = spans.get_finished_spans()
    assert [trace.format_span_id(link.context.span_id) for link in span.links] == [PARENT] * 2


async def test_a_span_of_what_failed_says_so(
    stage: Stage, consumer: pgqrs.Consumer, spans: InMemorySpanExporter
) -> None:
    await stage.send(1)

    async def handle(_: pgqrs.Message) -> None:
        raise ValueError

    async with running(consumer, handle, backoff=Backoff(first=timedelta(hours=1))):
        await becomes(lambda: len(spans.get_finished_spans()), 1)
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": "5"}, "concurrency"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 10_001}, "batch_size"),
        ({"archive": "no"}, "archive"),
        ({"lease": timedelta()}, "lease"),
        ({"lease": 30}, "lease"),
        ({"time_limit": timedelta(-1)}, "time_limit"),
        ({"backoff": timedelta(1)}, "backoff"),
        ({"drain_timeout": 25}, "drain_timeout"),
        ({"signals": "no"}, "signals"),
        ({"middleware": [5]}, "middleware"),
        ({"middleware": nothing}, "middleware"),
        ({"handler": None}, "handler"),
        ({"handler": "send"}, "handler"),
    ],
    ids=str,
)
async def test_bad_arguments_are_named(consumer: pgqrs.Consumer, wrong: dict[str, Any], name: str) -> None:
    options: dict[str, Any] = {"handler": nothing, "signals": False} | wrong
    with pytest.raises(pgqrs.ValidationError, match=name):
        await asyncio.wait_for(consumer.run(**options), 10)
