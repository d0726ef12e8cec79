"""Bare asyncpg: what the driver and the tables give when nothing stands in between.

The setting says on which tables (`ours` or `untouched`), how messages are worked on (`loop` of handlers, or fetch and
complete in `two statements`), and whether the completed ones are archived or deleted.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import asyncpg

import pgqrs
from pgqrs import statements as blocks
from tests.bench.peers import statements
from tests.bench.peers.child import main
from tests.bench.peers.harness import PAYLOAD, QUEUE, FleetPeer

_BODY = json.dumps(PAYLOAD)
_PREFETCH = 500
_HANDLERS = 50
_BATCH = 100
_FLEET_SECONDS = 120.0


class Bare(FleetPeer):
    """One process with a pool for sending and a connection for working."""

    async def install(self) -> None:
        """Make our tables by our installer, or upstream's as upstream has them."""
        if self.setting["tables"] == "ours":
            async with pgqrs.Admin(self.dsn) as admin:
                await admin.install()
                await admin.create_queue(QUEUE)
            return
        connection = await asyncpg.connect(self.dsn)
        await connection.execute(blocks.migration("upstream_0_15_3", "public"))
        await connection.execute(f"INSERT INTO pgqrs_queues (queue_name) VALUES ('{QUEUE}')")
        await connection.close()

    async def open(self) -> None:
        """Connect, and register one worker."""
        self._pool = await asyncpg.create_pool(self.dsn)
        self._connection = await asyncpg.connect(self.dsn)
        self._queue = await self._connection.fetchval("SELECT id FROM pgqrs_queues")
        self._worker = await self._connection.fetchval(statements.REGISTER, self._queue, 1)

    async def one(self, payload: dict[str, Any]) -> None:
        """Send one; only where a worker listens it is told."""
        statement = statements.ENQUEUE_ONE_AND_TELL if "sent" in payload else statements.ENQUEUE_ONE
        await self._pool.fetchrow(statement, self._queue, json.dumps(payload), self._worker)

    async def many(self, count: int) -> None:
        """Send many in one statement."""
        bodies = [json.dumps(PAYLOAD) for _ in range(count)]
        await self._pool.fetch(statements.ENQUEUE_MANY, self._queue, bodies, self._worker)

    async def fill(self, count: int) -> None:
        """Have the server make them."""
        await self._pool.execute(statements.FILL, self._queue, _BODY, self._worker, count, timeout=300)

    async def drain(self) -> None:
        """Work in the way that the setting names."""
        await (self._drain_by_loop() if self.setting["work"] == "loop" else self._drain_in_two_statements())

    async def _drain_in_two_statements(self) -> None:
        finish = statements.DELETE if self.setting["completed"] == "delete" else statements.ARCHIVE
        while rows := await self._connection.fetch(statements.LEASE, self._queue, self._worker, _BATCH):
            for row in rows:
                json.loads(row["payload"])
            await self._connection.fetch(finish, [row["id"] for row in rows], self._worker)
            for _ in rows:
                self.handled.hit()

    async def _drain_by_loop(self) -> None:
        """Prefetch, hand out to tasks, and complete together with the next fetch."""
        both = statements.DELETE_AND_LEASE if self.setting["completed"] == "delete" else statements.ARCHIVE_AND_LEASE
        waiting: asyncio.Queue[asyncpg.Record] = asyncio.Queue()
        finished: list[int] = []
        room = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            handlers = [group.create_task(self._handle(waiting, finished, room)) for _ in range(_HANDLERS)]
            while True:
                done, finished[:] = finished[:], []
                rows = await self._connection.fetch(both, self._queue, self._worker, _PREFETCH, done)
                if not rows and not finished and waiting.empty():
                    break
                for row in rows:
                    waiting.put_nowait(row)
                room.clear()
                if waiting.qsize() > _PREFETCH // 2:
                    await room.wait()
            for handler in handlers:
                handler.cancel()

    async def _handle(self, waiting: asyncio.Queue[asyncpg.Record], finished: list[int], room: asyncio.Event) -> None:
        async def handler(_: object) -> None:
            self.handled.hit()

        while True:
            row = await waiting.get()
            await handler(json.loads(row["payload"]))
            finished.append(row["id"])
            if waiting.qsize() <= _PREFETCH // 2:
                room.set()

    async def serve(self) -> None:
        """Fetch when told, and every second."""
        told = asyncio.Event()
        listener = await asyncpg.connect(self.dsn)
        await listener.add_listener("bench", lambda *_: told.set())
        while True:
            told.clear()
            while rows := await self._connection.fetch(statements.LEASE, self._queue, self._worker, _BATCH):
                for row in rows:
                    self.handled.arrived(json.loads(row["payload"])["sent"])
                await self._connection.fetch(statements.ARCHIVE, [row["id"] for row in rows], self._worker)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await told.wait()

    async def populate(self, workers: int) -> None:
        """Register workers by the thousands."""
        # On a connection of another number, which is part of the names.
        rows = await self._pool.fetch(statements.REGISTER, self._queue, workers, timeout=_FLEET_SECONDS)
        self._fleet = [row["id"] for row in rows]

    async def beat(self) -> None:
        """Beat for all in one statement."""
        await self._connection.fetch(statements.BEAT, self._fleet, timeout=_FLEET_SECONDS)


if __name__ == "__main__":
    main(Bare)
