"""Runs in upstream's environment: reads calls as lines of JSON, makes them with upstream's own client, answers in JSON.

It is never imported by a test. Producers and consumers are kept by the name that the call gives them; the rows' names
are upstream's own invention, because what takes a name (`Producer.new_producer`) blocks the loop and hangs at times.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

#: Upstream's package; by this way type checkers don't take it for ours.
pgqrs: Any = importlib.import_module("pgqrs")


def _message(message: Any) -> dict[str, Any]:
    names = ("id", "queue_id", "payload", "vt", "enqueued_at", "read_ct", "consumer_worker_id", "archived_at")
    return {name: getattr(message, name) for name in names}


class Session:
    """The store of one database and the workers made in it."""

    def __init__(self) -> None:
        self.store: Any = None
        self.producers: dict[str, Any] = {}
        self.consumers: dict[str, Any] = {}

    async def connect(self, dsn: str, schema: str) -> None:
        config = pgqrs.Config(dsn, schema=schema)
        # Its limiter refuses more than 50 messages at once.
        config.max_enqueue_per_second = None
        config.max_enqueue_burst = None
        self.store = await pgqrs.connect_with(config)

    async def version(self) -> str:
        metadata = importlib.import_module("importlib.metadata")
        return str(metadata.version("pgqrs"))

    async def bootstrap(self) -> None:
        await self.store.bootstrap()

    async def install(self) -> None:
        await pgqrs.admin(self.store).install()

    async def verify(self) -> None:
        await pgqrs.admin(self.store).verify()

    async def create_queue(self, queue: str) -> int:
        return int((await self.store.queue(queue)).id)

    async def delete_queue(self, queue: str) -> bool:
        return bool(await pgqrs.admin(self.store).delete_queue(queue))

    async def producer(self, queue: str, name: str) -> int:
        producer = await self.store.producer(queue)
        self.producers[name] = producer
        return int(producer.worker_id)

    async def consumer(self, queue: str, name: str) -> int:
        consumer = await self.store.consumer(queue)
        self.consumers[name] = consumer
        return int(consumer.worker_id)

    async def enqueue(self, name: str, payload: Any, delay: int = 0) -> int:
        producer = self.producers[name]
        return int(await (producer.enqueue_delayed(payload, delay) if delay else producer.enqueue(payload)))

    async def produce(self, queue: str, payload: Any) -> int:
        return int(await pgqrs.produce(self.store, queue, payload))

    async def produce_batch(self, queue: str, payloads: list[Any]) -> list[int]:
        return [int(one) for one in await pgqrs.produce_batch(self.store, queue, payloads)]

    async def dequeue(self, name: str, limit: int = 1, lease: int | None = None) -> list[dict[str, Any]]:
        consumer = self.consumers[name]
        found = await (
            consumer.dequeue(batch_size=limit) if lease is None else consumer.dequeue_many_with_delay(limit, lease)
        )
        return [_message(one) for one in found]

    async def archive(self, name: str, message_id: int) -> bool:
        return bool(await self.consumers[name].archive(message_id))

    async def archive_many(self, name: str, message_ids: list[int]) -> list[bool]:
        return [bool(one) for one in await self.consumers[name].archive_many(message_ids)]

    async def delete(self, name: str, message_id: int) -> bool:
        return bool(await self.consumers[name].delete(message_id))

    async def extend(self, name: str, message_id: int, seconds: int) -> bool:
        return bool(await self.consumers[name].extend_vt(message_id, seconds))

    async def release(self, name: str, message_ids: list[int]) -> int:
        return int(await self.consumers[name].release_messages(message_ids))

    async def release_worker(self, worker_id: int) -> int:
        return int(await pgqrs.admin(self.store).release_worker_messages(worker_id))

    async def status(self, name: str) -> str:
        return str(await self.consumers[name].status())

    async def workers(self) -> list[dict[str, Any]]:
        return [
            {"id": one.id, "name": one.name, "status": str(one.status), "queue_id": one.queue_id}
            for one in await (await self.store.get_workers()).list()
        ]

    async def counts(self) -> dict[str, int]:
        return {
            "queues": await (await self.store.get_queues()).count(),
            "workers": await (await self.store.get_workers()).count(),
            "messages": await (await self.store.get_messages()).count(),
        }

    async def archived(self, queue_id: int) -> list[dict[str, Any]]:
        return [_message(one) for one in await (await self.store.get_messages()).list_archived_by_queue(queue_id)]


async def main() -> None:
    """Answer calls until the input ends."""
    session = Session()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        call = json.loads(line)
        try:
            answer = {"result": await getattr(session, call.pop("verb"))(**call)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
