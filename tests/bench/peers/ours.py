"""pgqrs as an app uses it: `Producer` and `Consumer`, nothing that is not public, but for the heartbeats of a fleet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

import pgqrs
from pgqrs import pods
from pgqrs.database import Database
from tests.bench.peers import statements
from tests.bench.peers.child import main
from tests.bench.peers.harness import PAYLOAD, QUEUE, FleetPeer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler: TypeAlias = Callable[[pgqrs.Message], Awaitable[None]]

_BODY = json.dumps(PAYLOAD)
_FLEET_SECONDS = 120.0


class Ours(FleetPeer):
    """One process with a producer and a consumer."""

    async def install(self) -> None:
        """Install as the operator does."""
        async with pgqrs.Admin(self.dsn) as admin:
            await admin.install()
            await admin.create_queue(QUEUE)

    async def open(self) -> None:
        """Register both."""
        self._producer = pgqrs.Producer(self.dsn, QUEUE)
        self._consumer = pgqrs.Consumer(self.dsn, QUEUE)
        await self._producer.start()
        await self._consumer.start()
        self._filler = await asyncpg.connect(self.dsn)
        self._queue = await self._filler.fetchval("SELECT id FROM pgqrs_queues")

    async def one(self, payload: dict[str, Any]) -> None:
        """Send one."""
        await self._producer.enqueue(payload)

    async def many(self, count: int) -> None:
        """Send many."""
        await self._producer.enqueue_batch([PAYLOAD] * count)

    async def fill(self, count: int) -> None:
        """Have the server make them, as for bare asyncpg."""
        await self._filler.execute(statements.FILL, self._queue, _BODY, self._producer.worker_id, count, timeout=300)

    async def drain(self) -> None:
        """Run the loop with a no-op handler."""

        async def handler(_: pgqrs.Message) -> None:
            self.handled.hit()

        await self.drain_until_quiet(self._work(handler))

    async def serve(self) -> None:
        """Run the loop with a handler that notes how old the message is."""

        async def handler(message: pgqrs.Message) -> None:
            self.handled.arrived(message.payload["sent"])

        await self._work(handler)

    async def _work(self, handler: Handler) -> None:
        """Hand messages to the handler until cancelled, as an app does."""
        await self._consumer.run(
            handler, concurrency=self.setting["concurrency"], archive=self.setting["completed"] == "archive"
        )

    async def populate(self, workers: int) -> None:
        """Register workers of one pod by the thousands."""
        await self._filler.execute(statements.REGISTER_POD, self._queue, workers, timeout=_FLEET_SECONDS)
        self._fleet = Database(self.dsn, timeout=_FLEET_SECONDS)

    async def beat(self) -> None:
        """Beat for all of the pod, as its sidecar does."""
        await pods.beat(self._fleet, "bench")


if __name__ == "__main__":
    main(Ours)
