"""`Consumer.run` killed (`kill -9`) in each phase of its loop: nothing is lost, only what was in flight comes again.

Each phase is held by a lock of the test's: on the worker's row, for which the statement waits that leases, or on a
message's row, for which the statement waits that completes it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

import pgqrs
from tests.support.children import child
from tests.support.consuming import QUEUE, Stage, becomes, eventually, running, staged, through
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer

#: Seconds; until then the dead worker's messages are nobody else's.
LEASE = 2


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn) as made:
        yield made


async def gone(stage: Stage, pids: list[int]) -> None:
    """Wait until these backends have ended."""

    async def look() -> bool:
        return not await stage.observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)", pids)

    await eventually(look)


async def handled_by_another(stage: Stage, sent: list[int]) -> Counter[int]:
    """Let another worker handle what is left, and give what it was handed."""
    handed: Counter[int] = Counter()

    async def handle(message: pgqrs.Message) -> None:
        handed[message.id] += 1

    async with pgqrs.Consumer(stage.dsn, QUEUE) as other, running(other, handle):
        await becomes(stage.archived_ids, set(sent))
    assert await stage.held() == 0
    return handed


async def test_killed_with_messages_that_it_has_not_begun(stage: Stage, postgres: PostgresServer) -> None:
    """The lease is committed, and the answer that tells of it never arrives."""
    async with Proxy(postgres.port) as proxy, child(through(proxy, stage.dsn), concurrency=5, lease=LEASE) as app:
        async with stage.lease_held_up(app.worker_id, 20) as (sent, _):
            proxy.swallow()
        await becomes(lambda: stage.held(app.worker_id), 5)
        assert app.said("begun") == []
        await app.kill()
    assert await handled_by_another(stage, sent) == dict.fromkeys(sent, 1)
    counts = Counter([(await stage.row(message))["read_ct"] for message in sent])
    assert counts == {1: 15, 2: 5}


@pytest.mark.parametrize("plain", [False, True], ids=["awaited", "in threads"])
async def test_killed_while_handlers_run(stage: Stage, *, plain: bool) -> None:
    quick = await stage.producer.enqueue_batch(["quick"] * 50)
    async with child(stage.dsn, concurrency=3, lease=LEASE, plain=plain) as app:
        await becomes(stage.archived_ids, set(quick))
        slow = await stage.producer.enqueue_batch(["wait"] * 3 + ["later"] * 10)
        await app.begun(*quick, *slow[:3])
        await app.kill()
    assert await handled_by_another(stage, [*quick, *slow]) == dict.fromkeys(slow, 1)
    assert {(await stage.row(message))["read_ct"] for message in slow[:3]} == {2}


async def test_killed_with_messages_that_are_done_but_not_flushed(stage: Stage) -> None:
    first, done = await stage.producer.enqueue_batch(["quick", "wait"])
    async with child(stage.dsn, lease=LEASE, concurrency=2) as app:
        await becomes(stage.archived_ids, {first})
        await app.begun(first, done)
        async with stage.locked("pgqrs_workers", app.worker_id):
            # A round trip for more is under way, and until its answer is there nothing else is told.
            more = await stage.send(3)
            pids = await eventually(stage.waiting)
            app.go()
            await app.ended(first, done)
            await app.kill()
            await stage.observer.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", pids)
            await gone(stage, pids)
    sent = [first, done, *more]
    assert await handled_by_another(stage, sent) == dict.fromkeys([done, *more], 1)
    assert (await stage.row(done))["read_ct"] == 2


@pytest.mark.parametrize("committed", [False, True], ids=["rolled back", "committed"])
async def test_killed_while_it_flushes(stage: Stage, *, committed: bool) -> None:
    """Where the server commits the last statement of the dead, its messages do not come again; otherwise they do."""
    first, done, other = await stage.producer.enqueue_batch(["quick", "wait", "wait"])
    async with child(stage.dsn, lease=LEASE, concurrency=3) as app:
        await app.begun(first, done, other)
        await becomes(stage.archived_ids, {first})
        async with stage.locked("pgqrs_messages", done):
            app.go()
            await app.ended(first, done, other)
            pids = await eventually(stage.waiting)
            await app.kill()
            if not committed:
                await stage.observer.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", pids)
                await gone(stage, pids)
        if committed:
            await becomes(stage.archived_ids, {first, done, other})
    again = {} if committed else {done: 1, other: 1}
    assert await handled_by_another(stage, [first, done, other]) == again


async def test_killed_in_the_middle_of_a_flood(stage: Stage) -> None:
    """Whatever it was doing: all of it is handled, and what was done and told is not handled again."""
    sent = await stage.send(5000)
    async with child(stage.dsn, concurrency=10, lease=LEASE) as app:
        await eventually(stage.archived)
        await app.kill()
    told = await stage.archived_ids()
    begun = set(app.said("begun"))
    assert told <= begun
    handed = await handled_by_another(stage, sent)
    assert handed == dict.fromkeys(set(sent) - told, 1)
    assert len(begun) < len(sent), "it was killed too late for this to show anything"
