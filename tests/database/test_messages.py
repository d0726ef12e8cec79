"""Messages: sent once, delivered until they are done, in order, to one owner at a time."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import pgqrs
from pgqrs import lifecycle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.postgres import PostgresServer


@pytest.fixture
async def producer(admin: pgqrs.Admin) -> AsyncIterator[pgqrs.Producer]:
    await admin.create_queue("emails", pgqrs.QueuePolicy(read_limit=3))
    async with pgqrs.Producer(admin, "emails") as opened:
        yield opened


@pytest.fixture
async def consumer(admin: pgqrs.Admin, producer: pgqrs.Producer) -> AsyncIterator[pgqrs.Consumer]:
    async with pgqrs.Consumer(admin, producer.queue) as opened:
        yield opened


async def test_messages_come_back_in_order_and_only_once(producer: pgqrs.Producer, consumer: pgqrs.Consumer) -> None:
    sent = await producer.enqueue_batch(list(range(100)))
    received = await consumer.dequeue(60) + await consumer.dequeue(60)
    assert [message.id for message in received] == sent
    assert [message.payload for message in received] == list(range(100))
    assert await consumer.dequeue() == []
    assert await consumer.archive_many([message.id for message in received]) == [True] * 100
    assert await consumer.archive(sent[0]) is False, "done twice is done once"


@pytest.mark.parametrize("payload", [None, True, 0, -1.5, "", "ü\n", [], {"a": {"b": [1, None]}}])
async def test_any_json_survives(producer: pgqrs.Producer, consumer: pgqrs.Consumer, payload: object) -> None:
    await producer.enqueue(payload)
    assert [message.payload for message in await consumer.dequeue()] == [payload]


@pytest.mark.parametrize("payload", [float("nan"), object(), "\0"])
async def test_what_cannot_be_stored_is_refused_and_nothing_is_written(
    producer: pgqrs.Producer, admin: pgqrs.Admin, payload: object
) -> None:
    with pytest.raises(pgqrs.ValidationError, match="Payload 1"):
        await producer.enqueue_batch(["fine", payload])
    assert await (await admin.get_messages()).count() == 0


async def test_a_lease_that_ran_out_is_delivered_again(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await producer.enqueue("x")
    (first,) = await consumer.dequeue()
    async with pgqrs.Consumer(admin, consumer.queue) as other:
        assert await other.dequeue() == [], "one owner at a time"
        await connection.execute("UPDATE pgqrs_messages SET vt = now() - interval '1 second'")
        (second,) = await other.dequeue()
        assert (second.id, second.read_ct) == (first.id, 2)
        assert await consumer.archive(first.id) is False
        assert await other.archive(second.id) is True


async def test_a_message_at_its_read_limit_becomes_a_dead_letter_with_a_reason(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    await producer.enqueue_batch(["poison", "fine"])
    for _ in range(3):
        (message,) = await consumer.dequeue()
        assert message.payload == "poison"
        await consumer.release(message.id)
    assert [message.payload for message in await consumer.dequeue(2)] == ["fine"]
    counts = await admin.queue_counts(producer.queue)
    assert (counts.dead, counts.ready, counts.archived) == (1, 0, 0)
    assert await connection.fetchval("SELECT dead_reason FROM pgqrs_messages WHERE dead_reason IS NOT NULL") == (
        "leased 3 times, the limit is 3"
    )


async def test_the_five_buckets_hold_every_message_once(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    await producer.enqueue_batch([1, 2, 3])
    await producer.enqueue("later", delay=timedelta(hours=1))
    held = await consumer.dequeue(2)
    await consumer.archive(held[0].id)
    assert await admin.queue_counts(producer.queue) == pgqrs.QueueCounts(
        ready=1, delayed=1, leased=1, dead=0, archived=1
    )


async def test_delayed_extended_released_and_deleted(producer: pgqrs.Producer, consumer: pgqrs.Consumer) -> None:
    await producer.enqueue("x")
    (message,) = await consumer.dequeue(lease=timedelta(milliseconds=1))
    assert await consumer.extend(message.id, timedelta(hours=1))
    assert await consumer.dequeue() == []
    assert await consumer.release(message.id, delay=timedelta(hours=1))
    assert await consumer.dequeue() == []
    await producer.enqueue("y")
    (message,) = await consumer.dequeue()
    assert await consumer.delete(message.id)
    assert await consumer.delete(message.id) is False


async def test_many_consumers_never_share_a_message(producer: pgqrs.Producer, dsn: str) -> None:
    sent = await producer.enqueue_batch(list(range(500)))
    done: list[int] = []

    async def work() -> None:
        async with pgqrs.Consumer(dsn, producer.queue) as consumer:
            while batch := await consumer.dequeue(7):
                assert all(await consumer.archive_many([message.id for message in batch]))
                done.extend(message.id for message in batch)

    await asyncio.gather(*(work() for _ in range(8)))
    assert sorted(done) == sent


async def test_iteration_ends_when_the_worker_is_drained(producer: pgqrs.Producer, consumer: pgqrs.Consumer) -> None:
    await producer.enqueue_batch(list(range(5)))
    seen = []
    async with asyncio.timeout(20):
        async for message in consumer:
            seen.append(message.payload)
            await consumer.archive(message.id)
            if len(seen) == 3:
                consumer.drain_requested(1.0)
    assert seen == [0, 1, 2]


async def test_dequeue_refreshes_the_heartbeat(consumer: pgqrs.Consumer, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE pgqrs_workers SET heartbeat_at = now() - interval '10 seconds'")
    await consumer.dequeue()
    assert await consumer.is_healthy(timedelta(seconds=5))


async def test_work_goes_on_after_the_database_was_restarted(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, postgres: PostgresServer
) -> None:
    sent = await producer.enqueue("before")
    postgres.stop("immediate")
    with pytest.raises(pgqrs.DatabaseUnavailableError) as caught:
        await consumer.dequeue()
    assert "canary" not in str(caught.value)
    assert str(postgres.port) in str(caught.value)
    postgres.start()
    assert [message.id for message in await consumer.dequeue()] == [sent]


async def test_the_password_is_in_no_text_of_an_error() -> None:
    bad = "postgresql://user:canary-Pa55word@127.0.0.1:1/nothing"
    async with pgqrs.Admin(bad) as admin:
        assert "canary" not in repr(admin)
        with pytest.raises(pgqrs.DatabaseUnavailableError) as caught:
            await admin.verify()
    assert "canary" not in str(caught.value)
    with pytest.raises(pgqrs.ConfigurationError) as refused:
        pgqrs.Admin("mysql://user:canary-Pa55word@host/db")
    assert "canary" not in str(refused.value)


async def test_a_producer_that_knew_a_queue_before_it_was_made_anew_sends_to_the_new_one(admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        message = await producer.enqueue({"n": 1})
        assert await consumer.dequeue()
        await consumer.archive(message)
        await admin.delete_queue("emails")
        with pytest.raises(pgqrs.QueueNotFoundError):
            await producer.enqueue({"n": 2})
        await admin.create_queue("emails")
        await producer.enqueue({"n": 3})
    async with pgqrs.Consumer(admin, "emails") as consumer:
        assert [message.payload for message in await consumer.dequeue(9)] == [{"n": 3}]


async def test_a_deletion_never_takes_a_message_that_was_committed_beside_it(admin: pgqrs.Admin) -> None:
    async def send(producer: pgqrs.Producer) -> int:
        try:
            return await producer.enqueue({})
        except pgqrs.QueueNotFoundError:
            return 0

    for _ in range(20):
        await admin.create_queue("emails")
        async with pgqrs.Producer(admin, "emails") as producer:
            await producer.start()
            sent, deleted = await asyncio.gather(send(producer), admin.delete_queue("emails"), return_exceptions=True)
            count = await (await admin.get_messages()).count()
            # Either the message is there and the queue with it, or neither is.
            assert (bool(sent), count) in {(True, 1), (False, 0)}
            assert isinstance(deleted, pgqrs.QueueNotEmptyError) is bool(sent)
        if sent:
            async with admin.database.transaction() as transaction:
                await transaction.execute("UPDATE pgqrs_messages SET archived_at = now()")
            await admin.delete_queue("emails")


async def test_a_message_sent_on_the_app_s_connection_lives_and_dies_with_its_transaction(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, connection: asyncpg.Connection
) -> None:
    async with connection.transaction():
        sent = [await producer.enqueue("kept", connection=connection)]
        sent += await producer.enqueue_batch(["one", "two"], keys=["1", None], connection=connection)
        assert await consumer.dequeue(9) == [], "not committed yet"
    assert [message.id for message in await consumer.dequeue(9)] == sent
    transaction = connection.transaction()
    await transaction.start()
    await producer.enqueue("gone", connection=connection, headers={"trace": 1})
    await producer.enqueue("gone", connection=connection, key="gone")
    await transaction.rollback()
    assert await consumer.dequeue(9) == []
    await producer.enqueue("without a transaction", connection=connection)
    assert len(await consumer.dequeue(9)) == 1


async def test_what_is_refused_before_it_is_sent_leaves_the_app_s_transaction_alone(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, connection: asyncpg.Connection
) -> None:
    async with connection.transaction():
        await producer.enqueue("kept", connection=connection)
        with pytest.raises(pgqrs.ValidationError):
            await producer.enqueue(float("nan"), connection=connection)
    assert [message.payload for message in await consumer.dequeue(9)] == ["kept"]


async def test_a_pool_s_connection_is_one_of_the_app_s(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, dsn: str
) -> None:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=1) as pool, pool.acquire() as lent:
        await producer.enqueue("x", connection=lent)
    assert len(await consumer.dequeue()) == 1


async def test_what_is_no_open_connection_is_refused(producer: pgqrs.Producer, admin: pgqrs.Admin, dsn: str) -> None:
    closed = await asyncpg.connect(dsn)
    await closed.close()
    for wrong, said in ((admin, "Admin; it is an asyncpg"), (closed, "closed")):
        with pytest.raises(pgqrs.ValidationError, match=said):
            await producer.enqueue("x", connection=wrong)  # type: ignore[arg-type]


async def test_a_key_is_unique_among_the_live_messages_of_its_queue(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    first = await producer.enqueue(1, key="a")
    assert await producer.enqueue(2, key="a", delay=timedelta(hours=1)) == first
    (message,) = await consumer.dequeue(9)
    assert (message.id, message.payload, message.key) == (first, 1, "a")
    assert await producer.enqueue(3, key="a") == first, "leased is live"
    await admin.create_queue("letters")
    async with pgqrs.Producer(admin, "letters") as other:
        assert await other.enqueue(1, key="a") != first
    for finish in (consumer.archive, consumer.delete, lambda one: consumer.dead_letter(one, "broken")):
        assert await finish(message.id)
        next_id = await producer.enqueue(4, key="a")
        assert next_id > message.id
        (message,) = await consumer.dequeue(9)
        assert message.id == next_id


async def test_a_batch_with_keys_adds_each_once_and_keeps_its_order(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer
) -> None:
    old = await producer.enqueue("old", key="m")
    ids = await producer.enqueue_batch(
        ["z", "none", "a", "m", "z again", "none"], keys=["z", None, "a", "m", "z", None], headers={"trace": "t"}
    )
    assert ids[3] == old
    assert ids[4] == ids[0]
    received = await consumer.dequeue(20)
    assert [message.payload for message in received] == ["old", "z", "none", "a", "none"]
    assert [message.id for message in received] == [old, ids[0], ids[1], ids[2], ids[5]]
    assert [message.headers for message in received] == [{}, *[{"trace": "t"}] * 4]
    with pytest.raises(pgqrs.ValidationError, match=r"keys are .* for 2 payloads"):
        await producer.enqueue_batch([1, 2], keys=["a"])


async def test_many_that_send_one_key_at_once_add_one_message(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, dsn: str
) -> None:
    async with pgqrs.Admin(dsn) as one, pgqrs.Admin(dsn) as two:
        senders = [pgqrs.Producer(admin, producer.queue) for admin in (one, two)]
        keys = [f"k{n}" for n in range(40)]
        batches = await asyncio.gather(
            *(senders[n % 2].enqueue_batch(keys[:: 1 - 2 * (n % 2)], keys=keys[:: 1 - 2 * (n % 2)]) for n in range(12))
        )
        for sender in senders:
            await sender.aclose()
    assert len({message for batch in batches for message in batch}) == 40
    assert len(await consumer.dequeue(100)) == 40


async def test_a_key_that_comes_and_goes_is_never_lost_and_never_there_twice(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, dsn: str
) -> None:
    """What an enqueue answers was live at that moment, so everything that it names is delivered."""
    named: set[int] = set()
    done: list[int] = []
    sending = asyncio.Event()

    async def send() -> None:
        async with pgqrs.Producer(dsn, producer.queue) as sender:
            for n in range(60):
                named.add(await sender.enqueue(n, key="the same"))

    async def receive() -> None:
        while True:
            finished = sending.is_set()
            batch = await consumer.dequeue(10)
            assert len(batch) <= 1
            for message in batch:
                assert await consumer.archive(message.id)
                done.append(message.id)
            if finished and not batch:
                return

    receiver = asyncio.create_task(receive())
    await asyncio.gather(*(send() for _ in range(4)))
    sending.set()
    await receiver
    assert sorted(done) == sorted(named)


async def test_headers_travel_beside_the_payload(producer: pgqrs.Producer, consumer: pgqrs.Consumer) -> None:
    headers = {"traceparent": "00-ü", "baggage": {"n": [1, None]}}
    await producer.enqueue("x", headers=headers)
    await producer.enqueue("y")
    assert [message.headers for message in await consumer.dequeue(2)] == [headers, {}]


class _Quoting:
    """A codec of one's own: everything is a text."""

    def dumps(self, value: object, /) -> bytes:
        return f'"{value}"'.encode()

    def loads(self, text: str, /) -> object:
        if text == '"poison"':
            raise ValueError(text)
        return text.strip('"').upper()


async def test_a_codec_of_the_app_s_own_writes_and_reads(producer: pgqrs.Producer, admin: pgqrs.Admin) -> None:
    async with (
        pgqrs.Producer(admin, producer.queue, codec=_Quoting()) as sender,
        pgqrs.Consumer(admin, producer.queue, codec=_Quoting()) as receiver,
    ):
        await sender.enqueue_batch(["a", "poison", "b"])
        assert [message.payload for message in await receiver.dequeue(3)] == ["A", "B"]
        with pytest.raises(pgqrs.ValidationError, match="PostgreSQL cannot store"):
            await sender.enqueue('no " json')
    counts = await admin.queue_counts(producer.queue)
    assert counts.dead == 1, "what cannot be read does not take its batch with it"


async def test_the_largest_payload_is_a_setting(producer: pgqrs.Producer, admin: pgqrs.Admin) -> None:
    with pytest.raises(pgqrs.ValidationError, match="the limit is 1,048,576"):
        await producer.enqueue("x" * 1024 * 1024)
    async with pgqrs.Producer(admin, producer.queue, max_payload_bytes=2_000_000) as sender:
        await sender.enqueue("x" * 1024 * 1024)


async def test_bad_arguments_are_named(producer: pgqrs.Producer, consumer: pgqrs.Consumer) -> None:
    number: Any = 5
    text: Any = "1"
    mapping: Any = {"a": 1}
    calls: list[tuple[Callable[[], Awaitable[object]], str]] = [
        (lambda: producer.enqueue("x", delay=timedelta(seconds=-1)), "delay .* is negative"),
        (lambda: producer.enqueue("x", delay=number), "it is a timedelta"),
        (lambda: producer.enqueue("x", delay=timedelta.max), "delay .* is too long"),
        (lambda: producer.enqueue_batch("text"), "call enqueue"),
        (lambda: producer.enqueue_batch(mapping), "call enqueue"),
        (lambda: consumer.dequeue(0), "1 to 10,000"),
        (lambda: consumer.dequeue(lease=timedelta()), "lease is zero"),
        (lambda: consumer.archive(text), "no id of a message"),
        (lambda: consumer.release(1, delay=timedelta(-1)), "delay .* is negative"),
        (lambda: consumer.extend(1, timedelta()), "duration is zero"),
        (lambda: consumer.dead_letter(1, " "), "reason"),
    ]
    for call, said in calls:
        with pytest.raises(pgqrs.ValidationError, match=said):
            await call()


async def test_a_closed_client_says_so(producer: pgqrs.Producer, connection: asyncpg.Connection) -> None:
    await producer.aclose()
    with pytest.raises(pgqrs.WorkerNotReadyError, match="is closed; make a new one"):
        await producer.enqueue("x")
    with pytest.raises(pgqrs.WorkerNotReadyError, match="is closed; make a new one"):
        await producer.enqueue("x", connection=connection)


async def test_many_are_extended_released_dead_lettered_and_deleted_at_once(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    ids = await producer.enqueue_batch(list(range(8)))
    async with pgqrs.Consumer(admin, producer.queue) as other:
        (foreign,) = await other.dequeue()
        await consumer.dequeue(7)
        assert await consumer.extend_many(ids, timedelta(hours=1)) == [False, *[True] * 7]
        assert await consumer.release_many([ids[2], ids[0], ids[1]]) == [True, False, True]
        assert await consumer.release_many([ids[3]], delay=timedelta(hours=1)) == [True]
        assert await consumer.dead_letter_many([ids[4], ids[0]], "broken") == [True, False]
        assert await consumer.delete_many(ids[5:7]) == [True, True]
        assert await consumer.delete_many(ids[5:7]) == [False, False]
        assert await consumer.archive_many([]) == []
        counts = await admin.queue_counts(producer.queue)
        assert (counts.ready, counts.delayed, counts.leased, counts.dead) == (2, 1, 2, 1)
        assert foreign.id == ids[0]
    left = await connection.fetchval("SELECT vt - now() FROM pgqrs_messages WHERE id = $1", ids[7])
    assert left > timedelta(minutes=59)


async def test_a_stopped_worker_learns_it_from_every_verb(
    producer: pgqrs.Producer, consumer: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    (sent,) = await producer.enqueue_batch(["x"])
    await consumer.dequeue()
    await lifecycle.stop(admin.database, [consumer.worker_id], reason="test")
    for call in (
        consumer.archive(sent),
        consumer.delete(sent),
        consumer.release(sent),
        consumer.dead_letter(sent, "late"),
        consumer.extend(sent, timedelta(seconds=1)),
    ):
        with pytest.raises(pgqrs.WorkerReplacedError):
            await call
    assert (await admin.queue_counts(producer.queue)).ready == 1


async def test_a_codec_that_fails_in_whatever_way_costs_one_message_only(admin: pgqrs.Admin) -> None:
    class Picky:
        def dumps(self, value: object) -> str:
            return json.dumps(value)

        def loads(self, text: str) -> dict[str, int]:
            return {"n": json.loads(text)["n"]}

    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer:
        await producer.enqueue_batch([{"n": 1}, {"m": 2}, {"n": 3}])
    async with pgqrs.Consumer(admin, "emails", codec=Picky()) as consumer:
        found = await consumer.dequeue(9)
        assert [message.payload for message in found] == [{"n": 1}, {"n": 3}]
        await consumer.archive_many([message.id for message in found])
    (letter,) = await (await admin.get_messages()).dead_letters("emails")
    assert letter.reason == "the codec cannot read the payload (KeyError)"


@pytest.mark.parametrize(
    "policy",
    [
        pgqrs.QueuePolicy(lease_duration=timedelta(0)),
        pgqrs.QueuePolicy(read_limit=0),
        pgqrs.QueuePolicy(heartbeat_timeout=timedelta(seconds=1)),
    ],
)
async def test_a_policy_that_would_break_a_promise_is_refused(admin: pgqrs.Admin, policy: pgqrs.QueuePolicy) -> None:
    with pytest.raises(pgqrs.ValidationError):
        await admin.create_queue("emails", policy)
    await admin.create_queue("emails")
    with pytest.raises(pgqrs.ValidationError):
        await admin.set_policy("emails", policy)
