"""`Consumer.run` while the database fails: it goes on by itself, and what a lost answer told of waits for no lease."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import pgqrs
from tests.support.consuming import QUEUE, Stage, becomes, eventually, running, staged, through
from tests.support.postgres import PostgresServer
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

#: No test waits for the end of such a lease.
LONG = timedelta(hours=1)


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn) as made:
        yield made


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    async with Proxy(postgres.port) as opened:
        yield opened


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that only this test has."""
    made = PostgresServer()
    made.create()
    yield made
    made.destroy()


class Counted:
    """A handler that counts how often it was handed each message, and waits where it is told to."""

    def __init__(self) -> None:
        self.handed: Counter[int] = Counter()
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, message: pgqrs.Message) -> None:
        self.handed[message.id] += 1
        await self.go.wait()


@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_a_restart_in_the_middle(server: PostgresServer, mode: str) -> None:
    async with pgqrs.Admin(server.dsn()) as admin:
        await admin.install()
        await admin.create_queue(QUEUE)
        async with pgqrs.Producer(admin, QUEUE) as producer:
            sent = await producer.enqueue_batch(list(range(2000)))
    handler = Counted()
    handler.go.clear()
    pausing = asyncio.Event()

    async def handle(message: pgqrs.Message) -> None:
        if len(handler.handed) >= 500:
            pausing.set()
            await handler(message)
        else:
            handler.handed[message.id] += 1

    async with pgqrs.Consumer(server.dsn(), QUEUE) as consumer, running(consumer, handle, lease=LONG) as run:
        await asyncio.wait_for(pausing.wait(), 30)
        await asyncio.to_thread(server.stop, mode)
        handler.go.set()
        await asyncio.to_thread(server.start)
        async with pgqrs.Admin(server.dsn()) as admin:

            async def archived() -> int:
                return (await admin.queue_counts(QUEUE)).archived

            await becomes(archived, 2000, within=60)
        assert not run.done()
    assert handler.handed.keys() == set(sent)
    # Nobody died, so nothing had to be handled twice.
    assert set(handler.handed.values()) == {1}


async def test_what_a_lost_answer_told_of_is_given_back_at_once(stage: Stage, proxy: Proxy) -> None:
    handler = Counted()
    async with pgqrs.Consumer(through(proxy, stage.dsn), QUEUE) as consumer, running(consumer, handler, lease=LONG):
        async with stage.lease_held_up(consumer.worker_id, 10) as (sent, _):
            proxy.swallow()
        await becomes(lambda: stage.held(consumer.worker_id), 10)
        assert handler.handed == {}
        proxy.cut()
        proxy.heal()
        await becomes(stage.archived_ids, set(sent))
    assert handler.handed == dict.fromkeys(sent, 1)
    assert {(await stage.row(message))["read_ct"] for message in sent} == {1}


async def test_a_call_that_was_given_up_and_takes_effect_later_leaves_nothing_behind(
    stage: Stage, proxy: Proxy
) -> None:
    """The line breaks while the server still works on the statement, which it finishes without anyone who listens."""
    handler = Counted()
    async with pgqrs.Consumer(through(proxy, stage.dsn), QUEUE) as consumer, running(consumer, handler, lease=LONG):
        async with stage.lease_held_up(consumer.worker_id, 10) as (sent, orphans):
            proxy.cut()

            async def is_back() -> bool:
                found = await stage.observer.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                return bool({row["pid"] for row in found} - set(orphans))

            await eventually(is_back)
        await becomes(stage.archived_ids, set(sent))
    assert handler.handed == dict.fromkeys(sent, 1)


async def test_what_was_done_when_the_line_broke_is_told_again_and_not_done_again(stage: Stage, proxy: Proxy) -> None:
    handler = Counted()
    handler.go.clear()
    async with pgqrs.Consumer(through(proxy, stage.dsn), QUEUE) as consumer, running(consumer, handler, lease=LONG):
        sent = await stage.send(3)
        await becomes(lambda: len(handler.handed), 3)
        async with stage.locked("pgqrs_messages", sent[0]):
            handler.go.set()
            pids = await eventually(stage.waiting)
            proxy.cut()
            await stage.observer.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", pids)
        await becomes(stage.archived_ids, set(sent))
    assert handler.handed == dict.fromkeys(sent, 1)


async def test_handlers_go_on_while_the_database_is_away(stage: Stage, proxy: Proxy) -> None:
    handler = Counted()
    handler.go.clear()
    async with (
        pgqrs.Consumer(through(proxy, stage.dsn), QUEUE) as consumer,
        running(consumer, handler, concurrency=2, lease=LONG) as run,
    ):
        sent = await stage.send(6)
        await becomes(lambda: len(handler.handed), 2)
        proxy.server = ("127.0.0.1", 1)
        proxy.cut()
        handler.go.set()
        # It tries, in vain, more than once.
        before = proxy.accepted

        async def tried() -> bool:
            return proxy.accepted > before + 3

        await eventually(tried)
        assert not run.done()
        assert await stage.archived() == 0
        proxy.server = ("127.0.0.1", int(stage.dsn.rpartition(":")[2].partition("/")[0]))
        await becomes(stage.archived_ids, set(sent))
    assert handler.handed == dict.fromkeys(sent, 1)
