"""Messages that are sent one by one at the same time: they share statements, and each stays its sender's own."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import pgqrs
from tests.support.consuming import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer

MANY = 64


class Verbatim:
    """A codec whose payloads are JSON already, also such that PostgreSQL cannot store."""

    def dumps(self, value: Any, /) -> str:
        return str(value)

    def loads(self, text: str, /) -> Any:
        return json.loads(text)


@pytest.fixture
async def producer(admin: pgqrs.Admin) -> AsyncIterator[pgqrs.Producer]:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails", codec=Verbatim()) as opened:
        yield opened


@pytest.fixture
async def observer(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


@asynccontextmanager
async def held_up(dsn: str) -> AsyncIterator[None]:
    """Nobody can send while the block runs: the queue's row is somebody else's."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM pgqrs_queues FOR UPDATE")
            yield
    finally:
        await connection.close()


async def _is_waiting(observer: asyncpg.Connection) -> bool:
    return bool(
        await observer.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database())"
        )
    )


async def _sending(producer: pgqrs.Producer, dsn: str, observer: asyncpg.Connection, payloads: list[Any]) -> Any:
    """Start sending, the first alone and the others behind it, while nobody can."""
    async with held_up(dsn):
        tasks = [asyncio.create_task(producer.enqueue(payload)) for payload in payloads]
        await eventually(lambda: _is_waiting(observer))
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_sent_at_the_same_time_shares_transactions(
    producer: pgqrs.Producer, dsn: str, observer: asyncpg.Connection
) -> None:
    await _sending(producer, dsn, observer, list(range(MANY)))
    transactions = await observer.fetch("SELECT xmin::text, count(*) FROM pgqrs_messages GROUP BY 1 ORDER BY 2")
    assert [row["count"] for row in transactions] == [1, MANY - 1]


async def test_everybody_gets_the_id_of_their_own_message(
    producer: pgqrs.Producer, dsn: str, observer: asyncpg.Connection
) -> None:
    ids = await _sending(producer, dsn, observer, list(range(MANY)))
    rows = await observer.fetch("SELECT id, payload::text AS payload FROM pgqrs_messages")
    assert {row["id"]: int(row["payload"]) for row in rows} == {ids[number]: number for number in range(MANY)}


async def test_a_message_is_committed_when_its_call_returns(
    producer: pgqrs.Producer, observer: asyncpg.Connection
) -> None:
    lock = asyncio.Lock()

    async def send(number: int) -> None:
        message_id = await producer.enqueue(number)
        async with lock:
            assert await observer.fetchval("SELECT EXISTS (SELECT FROM pgqrs_messages WHERE id = $1)", message_id)

    await asyncio.gather(*map(send, range(MANY)))


@pytest.mark.parametrize("position", [0, 1, 17, MANY - 1])
async def test_a_payload_that_cannot_be_stored_fails_alone(
    producer: pgqrs.Producer, dsn: str, observer: asyncpg.Connection, position: int
) -> None:
    payloads: list[Any] = list(range(MANY))
    payloads[position] = "1e400000"
    answers = await _sending(producer, dsn, observer, payloads)
    assert isinstance(answers[position], pgqrs.ValidationError)
    assert [number for number, answer in enumerate(answers) if isinstance(answer, BaseException)] == [position]
    stored = [row["payload"] for row in await observer.fetch("SELECT payload::text AS payload FROM pgqrs_messages")]
    assert sorted(map(int, stored)) == [number for number in range(MANY) if number != position]


async def test_each_keeps_its_delay_its_headers_and_its_key(
    producer: pgqrs.Producer, dsn: str, observer: asyncpg.Connection
) -> None:
    async with held_up(dsn):
        tasks = [
            asyncio.create_task(call)
            for call in (
                producer.enqueue(0),
                producer.enqueue(1, delay=timedelta(hours=1)),
                producer.enqueue(2, headers={"tenant": "a"}),
                producer.enqueue(3, key="k"),
                producer.enqueue(4, key="k"),
                producer.enqueue(5),
            )
        ]
        await eventually(lambda: _is_waiting(observer))
    ids = await asyncio.gather(*tasks)
    assert ids[3] == ids[4]
    found = await observer.fetch(
        "SELECT payload::text AS payload, vt > now() AS later, headers::text AS headers, dedup_key FROM pgqrs_messages "
        "ORDER BY payload"
    )
    assert [tuple(row) for row in found] == [
        ("0", False, None, None),
        ("1", True, None, None),
        ("2", False, '{"tenant": "a"}', None),
        (found[3]["payload"], False, None, "k"),
        ("5", False, None, None),
    ]
    assert found[3]["payload"] in {"3", "4"}, "those with a key go alone, so either may be first"


async def test_who_gives_up_waiting_is_not_sent_and_disturbs_nobody(
    producer: pgqrs.Producer, dsn: str, observer: asyncpg.Connection
) -> None:
    async with held_up(dsn):
        tasks = [asyncio.create_task(producer.enqueue(number)) for number in range(4)]
        await eventually(lambda: _is_waiting(observer))
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert await observer.fetchval("SELECT array_agg(payload::text ORDER BY id) FROM pgqrs_messages") == ["0", "1", "3"]


async def test_the_first_that_gives_up_takes_nobody_with_it(
    producer: pgqrs.Producer, dsn: str, observer: asyncpg.Connection
) -> None:
    async with held_up(dsn):
        tasks = [asyncio.create_task(producer.enqueue(number)) for number in range(4)]
        await eventually(lambda: _is_waiting(observer))
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, BaseException) for answer in answers] == [True, False, False, False]


async def test_a_queue_that_was_made_anew_gets_them_all(producer: pgqrs.Producer, admin: pgqrs.Admin) -> None:
    await producer.enqueue(0)
    await admin.purge_queue("emails", archive=True)
    await admin.delete_queue("emails")
    await admin.create_queue("emails")
    await asyncio.gather(*map(producer.enqueue, range(MANY)))
    assert (await admin.queue_counts("emails")).ready == MANY


async def test_a_queue_that_is_gone_is_everybody_s_error(producer: pgqrs.Producer, admin: pgqrs.Admin) -> None:
    await producer.enqueue(0)
    await admin.purge_queue("emails", archive=True)
    await admin.delete_queue("emails")
    answers = await asyncio.gather(*map(producer.enqueue, range(MANY)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {pgqrs.QueueNotFoundError}


async def test_who_waits_when_the_producer_is_closed_is_told(dsn: str, observer: asyncpg.Connection) -> None:
    async with pgqrs.Admin(dsn) as admin:
        await admin.create_queue("letters")
        producer = pgqrs.Producer(admin, "letters")
        await producer.start()
        async with held_up(dsn):
            tasks = [asyncio.create_task(producer.enqueue(number)) for number in range(8)]
            await eventually(lambda: _is_waiting(observer))
            closing = asyncio.create_task(producer.aclose())
            answers = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert {type(answer) for answer in answers} == {pgqrs.WorkerNotReadyError}
        await closing
        # Whoever was under way may have been told either way, but was told.
        await asyncio.wait([tasks[0]], timeout=30)
        assert tasks[0].done()


async def test_a_restart_of_the_database_is_an_error_for_those_under_way_alone(
    producer: pgqrs.Producer, admin: pgqrs.Admin, postgres: PostgresServer
) -> None:
    await producer.enqueue(0)
    await asyncio.to_thread(postgres.stop, "immediate")
    answers = await asyncio.gather(*map(producer.enqueue, range(MANY)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {pgqrs.DatabaseUnavailableError}
    await asyncio.to_thread(postgres.start)
    await asyncio.gather(*map(producer.enqueue, range(MANY)))
    assert (await admin.queue_counts("emails")).ready == MANY + 1


async def test_a_message_carries_the_trace_of_its_sender(producer: pgqrs.Producer, admin: pgqrs.Admin) -> None:
    tracer = TracerProvider().get_tracer("app")
    with tracer.start_as_current_span("order") as span:
        await producer.enqueue(1)
        await producer.enqueue_batch([2, 3], headers={"tenant": "a"})
        await producer.enqueue(4, headers={"traceparent": "the app's own"})
    await producer.enqueue(5)
    context = span.get_span_context()
    ids = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    carried = f"00-{ids[0]}-{ids[1]}-{context.trace_flags:02x}"
    async with pgqrs.Consumer(admin, "emails", codec=Verbatim()) as consumer:
        headers = [message.headers for message in await consumer.dequeue(10)]
    both = {"traceparent": carried, "tenant": "a"}
    assert headers == [{"traceparent": carried}, both, both, {"traceparent": "the app's own"}, {}]
