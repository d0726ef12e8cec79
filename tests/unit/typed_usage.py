"""How the public types look to an app; mypy and pyright read it, nothing runs it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import pgqrs
from pgqrs import testing


async def sending(producer: pgqrs.Producer) -> None:
    one = await producer.enqueue({"to": "ada"}, delay=timedelta(seconds=1), key="k", headers={"traceparent": "00"})
    many = await producer.enqueue_batch(["a", 1, None])
    assert_type(one + many[0], int)


async def receiving(consumer: pgqrs.Consumer) -> None:
    assert_type(await consumer.dequeue(10, lease=timedelta(minutes=1)), list[pgqrs.Message])
    async for message in consumer:
        assert_type(message, pgqrs.Message)
        assert_type(message.payload, Any)
        assert_type(message.read_ct, int)
        moment: datetime = message.vt
        late: bool = message.enqueued_at < moment
        assert_type(late, bool)
        assert_type(await consumer.archive(message.id), bool)
        assert_type(await consumer.archive_many([message.id]), list[bool])
        assert_type(await consumer.delete(message.id), bool)
        assert_type(await consumer.release(message.id, delay=timedelta(seconds=1)), bool)
        assert_type(await consumer.extend(message.id, timedelta(seconds=1)), bool)


async def living(worker: pgqrs.Producer | pgqrs.Consumer) -> None:
    async with worker as entered:
        assert_type(entered, pgqrs.Producer | pgqrs.Consumer)
    numbers: list[int] = [worker.worker_id]
    assert_type(numbers, list[int])
    assert_type(await worker.status(), pgqrs.WorkerStatus)
    assert_type(await worker.is_healthy(timedelta(seconds=60)), bool)
    assert_type(await worker.drain(timedelta(seconds=25)), int)


async def looking_after(dsn: str) -> None:
    async with pgqrs.Admin(dsn) as admin:
        assert_type(admin, pgqrs.Admin)
        created = await admin.create_queue("emails", pgqrs.QueuePolicy(read_limit=3))
        assert_type(created, pgqrs.QueueInfo)
        assert_type(created.policy.lease_duration, timedelta)
        assert_type(await admin.queue_counts("emails"), pgqrs.QueueCounts)
        assert_type(await admin.get_queues(), pgqrs.Queues)
        workers = await admin.get_workers()
        assert_type(workers, pgqrs.Workers)
        for worker in await workers.filter_by_queue("emails"):
            assert_type(worker, pgqrs.WorkerInfo)
            assert_type(worker.status == "stopped", bool)
            seen: datetime | None = worker.updated_at
            if seen is not None:
                assert_type(seen < datetime.now(UTC), bool)
        assert_type(await workers.purge(timedelta(days=7)), int)
        async with pgqrs.WorkerHandle(admin, 42) as handle:
            assert_type(handle, pgqrs.WorkerHandle)
            assert_type(await handle.drain(), int)


async def failing(consumer: pgqrs.Consumer) -> None:
    try:
        await consumer.suspend()
    except pgqrs.WorkerHasPendingMessagesError as error:
        assert_type(error.count, int)
        assert_type(error.source, pgqrs.WorkerStatus)
    except pgqrs.WorkerAlreadyActiveError as error:
        assert_type(error.free_at, datetime)
    except (pgqrs.ValidationError, pgqrs.ConfigurationError) as error:
        value_error: ValueError = error
        assert_type(value_error.args, tuple[Any, ...])


async def trying_out(dsn: str) -> None:
    async def handler(message: pgqrs.Message) -> None:
        assert message.payload

    handled = await testing.handle(handler, ["a"], database=dsn)
    assert_type(handled, testing.Handled)
    assert_type(handled.archived, tuple[pgqrs.Message, ...])
    assert_type(handled.released[0].error, Exception)
    with testing.postgres() as server, server.database() as address:
        assert_type(server, testing.Server)
        assert_type(address, str)
