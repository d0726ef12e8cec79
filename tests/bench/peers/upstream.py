"""Upstream's pgqrs 0.15.3 by its own Python client.

Default: one message at a time, and `consume_iter`, which polls every 50 ms. Best: `dequeue` and `archive_many` in
batches of 100, and polling as often as does not keep a core busy. Offered 300 messages/s by another process,
`consume_iter` left a third of them leased and never handed them out, each time that we tried; so the work with a
snapshot goes by batches.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from tests.bench.peers.child import main
from tests.bench.peers.harness import PAYLOAD, QUEUE, Peer

#: By this way type checkers don't take it for ours.
pgqrs: Any = importlib.import_module("pgqrs")


class Upstream(Peer):
    """One process with a producer and a consumer of upstream's."""

    async def _connect(self) -> Any:
        config = pgqrs.Config.from_dsn(self.dsn)
        # Its limiter refuses more than 50 messages at once.
        config.max_enqueue_per_second = None
        config.max_enqueue_burst = None
        return await pgqrs.connect_with(config)

    async def install(self) -> None:
        """Let it make its tables."""
        store = await self._connect()
        await store.bootstrap()
        await store.queue(QUEUE)

    async def open(self) -> None:
        """Register both."""
        self._store = await self._connect()
        self._producer = await self._store.producer(QUEUE)
        self._consumer = await self._store.consumer(QUEUE)

    async def one(self, payload: dict[str, Any]) -> None:
        """Send one."""
        await self._producer.enqueue(payload)

    async def many(self, count: int) -> None:
        """Send many."""
        await pgqrs.enqueue_batch(self._producer, [PAYLOAD] * count)

    async def drain(self) -> None:
        """Dequeue and archive until nothing comes any more."""
        batch = self.setting["batch"]

        async def handler(_: Any) -> None:
            self.handled.hit()

        while messages := await self._consumer.dequeue(batch):
            for message in messages:
                await handler(message)
            if batch == 1:
                await self._consumer.archive(messages[0].id)
            else:
                await self._consumer.archive_many([message.id for message in messages])

    async def serve(self) -> None:
        """Iterate as its documents show; in batches, dequeue again at once or after the pause of polling."""
        if self.setting["batch"] > 1:
            await self._serve_in_batches()
            return
        # Entered and never left: it raises at its end when the worker holds messages, and this process just ends.
        messages = await self._store.consume_iter(QUEUE, poll_interval_ms=self.setting["poll_ms"]).__aenter__()
        async for message in messages:
            self.handled.arrived(message.payload["sent"])
            await messages.archive(message.id)

    async def _serve_in_batches(self) -> None:
        while True:
            messages = await self._consumer.dequeue(self.setting["batch"])
            for message in messages:
                self.handled.arrived(message.payload["sent"])
            if messages:
                await self._consumer.archive_many([message.id for message in messages])
            else:
                await asyncio.sleep(self.setting["poll_ms"] / 1000)


if __name__ == "__main__":
    main(Upstream)
