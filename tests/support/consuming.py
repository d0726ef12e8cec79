"""What tests of `Consumer.run` share: a queue with messages, a look at its rows, and a run that ends with the test."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

import pgqrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.proxy import Proxy

_Seen = TypeVar("_Seen")

QUEUE = "emails"
#: Part of the text of the statement that completes and leases; the server shows 1,024 characters of it.
EXCHANGE = "$5::bigint"


async def eventually(look: Callable[[], Awaitable[_Seen]], *, within: float = 30.0) -> _Seen:
    """Look again and again until what is seen is true, and give it; the last look is the failure's message."""
    seen: _Seen | None = None
    try:
        async with asyncio.timeout(within):
            while not (seen := await look()):
                await asyncio.sleep(0.01)
    except TimeoutError:
        message = f"not within {within} s; seen last: {seen!r}"
        raise AssertionError(message) from None
    return seen


async def becomes(look: Callable[[], Any], wanted: object, *, within: float = 30.0) -> None:
    """Wait until what is looked at, awaited if need be, is what is wanted."""
    seen: object = None
    try:
        async with asyncio.timeout(within):
            while True:
                seen = look()
                if asyncio.iscoroutine(seen):
                    seen = await seen
                if seen == wanted:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        message = f"not {wanted!r} within {within} s; seen last: {seen!r}"
        raise AssertionError(message) from None


def through(proxy: Proxy, dsn: str) -> str:
    """The same database, by way of the proxy."""
    return dsn.replace(f":{urlsplit(dsn).port}/", f":{proxy.port}/")


@dataclass
class Stage:
    """A queue, and a connection that sees its rows and that no fault touches."""

    dsn: str
    admin: pgqrs.Admin
    producer: pgqrs.Producer
    observer: asyncpg.Connection

    async def send(self, count: int) -> list[int]:
        """Send messages with the payloads 0, 1, 2, and so on."""
        return [int(sent) for sent in await self.producer.enqueue_batch(list(range(count)))]

    async def row(self, message_id: int) -> asyncpg.Record:
        """Read a message, with `delay`: seconds until it is visible, by the server's clock."""
        row = await self.observer.fetchrow(
            "SELECT *, extract(epoch FROM vt - now())::float8 AS delay FROM pgqrs_messages WHERE id = $1", message_id
        )
        assert row is not None
        return row

    async def held(self, worker_id: int | None = None) -> int:
        """Count the messages that this worker holds, or anybody; those whose lease ran out included."""
        return int(
            await self.observer.fetchval(
                "SELECT count(*) FROM pgqrs_messages WHERE archived_at IS NULL AND consumer_worker_id IS NOT NULL "
                "AND ($1::bigint IS NULL OR consumer_worker_id = $1)",
                worker_id,
            )
        )

    async def archived(self) -> int:
        """Count the messages that are done and kept."""
        return (await self.admin.queue_counts(QUEUE)).archived

    async def archived_ids(self) -> set[int]:
        """Give the messages that are done and kept."""
        found = await self.observer.fetch(
            "SELECT id FROM pgqrs_messages WHERE archived_at IS NOT NULL AND dead_reason IS NULL"
        )
        return {row["id"] for row in found}

    async def dead(self) -> dict[int, str]:
        """Give the reasons of the dead letters."""
        found = await self.observer.fetch("SELECT id, dead_reason FROM pgqrs_messages WHERE dead_reason IS NOT NULL")
        return {row["id"]: row["dead_reason"] for row in found}

    async def untouched(self) -> int:
        """Count the messages that are visible and of which nobody could tell that they were ever leased."""
        return int(
            await self.observer.fetchval(
                "SELECT count(*) FROM pgqrs_messages WHERE archived_at IS NULL AND consumer_worker_id IS NULL "
                "AND read_ct = 0 AND vt <= now()"
            )
        )

    async def status(self, worker_id: int) -> str:
        """Give the state of a worker."""
        return str(await self.observer.fetchval("SELECT status::text FROM pgqrs_workers WHERE id = $1", worker_id))

    async def waiting(self, text: str = EXCHANGE) -> list[int]:
        """Give the backends whose statement has this text and waits for a lock."""
        found = await self.observer.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
            "AND wait_event_type = 'Lock' AND query LIKE $1 AND pid <> pg_backend_pid()",
            f"%{text}%",
        )
        return [row["pid"] for row in found]

    async def asked_again(self) -> None:
        """Wait until somebody has asked for messages, from now on, and has the answer."""
        look = (
            "SELECT max(query_start) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' "
            "AND query LIKE $1"
        )
        before = await self.observer.fetchval(look, f"%{EXCHANGE}%")

        async def asked() -> bool:
            now = await self.observer.fetchval(look, f"%{EXCHANGE}%")
            return now is not None and (before is None or now > before)

        await eventually(asked)

    @asynccontextmanager
    async def locked(self, table: str, row_id: int) -> AsyncIterator[None]:
        """Let every statement that changes this row wait while the block runs."""
        holder = await asyncpg.connect(self.dsn)
        try:
            async with holder.transaction():
                await holder.execute(f"SELECT FROM {table} WHERE id = $1 FOR UPDATE", row_id)
                yield
        finally:
            await holder.close()

    @asynccontextmanager
    async def lease_held_up(self, worker_id: int, count: int) -> AsyncIterator[tuple[list[int], list[int]]]:
        """Let a statement wait, while the block runs, that will lease so many messages; give them, and the backends."""
        policy = (await self.admin.get_queue(QUEUE)).policy
        # What a statement does not see at its beginning it does not lease: they are there before it may see any.
        await self.admin.set_policy(QUEUE, replace(policy, paused=True))
        sent = await self.send(count)
        async with self.locked("pgqrs_workers", worker_id):
            await self.admin.set_policy(QUEUE, policy)
            yield sent, await eventually(self.waiting)


@asynccontextmanager
async def staged(dsn: str, policy: pgqrs.QueuePolicy | None = None) -> AsyncIterator[Stage]:
    """Make a queue in this database, and what a test sees it by."""
    observer = await asyncpg.connect(dsn)
    try:
        async with pgqrs.Admin(dsn) as admin:
            await admin.create_queue(QUEUE, policy)
            async with pgqrs.Producer(admin, QUEUE) as producer:
                yield Stage(dsn, admin, producer, observer)
    finally:
        await observer.close()


@asynccontextmanager
async def running(consumer: pgqrs.Consumer, handler: Any, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run a consumer beside the block; its end is the test's affair, or it is cancelled. An error of it is raised."""
    options.setdefault("signals", False)
    task = asyncio.create_task(consumer.run(handler, **options))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
    with contextlib.suppress(asyncio.CancelledError):
        task.result()


async def nothing(_: object) -> None:
    """Handle a message."""
