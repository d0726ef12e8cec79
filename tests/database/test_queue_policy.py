"""What stands in a queue's row: the back-off that consumers go by, and whose row may be removed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from pgqrs import lifecycle, queues
from pgqrs.backoff import Backoff
from pgqrs.models import QueueId
from tests.support.consuming import QUEUE, Stage, eventually, running, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOUR = timedelta(hours=1)
OWN = Backoff(first=HOUR, factor=3, most=timedelta(days=1), jitter=0)
CENTURY = timedelta(days=36_500)


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with staged(dsn, pgqrs.QueuePolicy(read_limit=9, backoff=OWN)) as made:
        yield made


async def refuse(_: object) -> None:
    problem = "no such address"
    raise ValueError(problem)


async def delay_after(stage: Stage, message_id: int, attempt: int) -> float:
    """Wait until a message failed for this time, and give the seconds that it waits for the next one."""

    async def failed() -> Any:
        row = await stage.row(message_id)
        return row if row["read_ct"] == attempt and row["consumer_worker_id"] is None else None

    return float((await eventually(failed))["delay"])


async def due(stage: Stage, message_id: int) -> None:
    await stage.observer.execute("UPDATE pgqrs_messages SET vt = now() WHERE id = $1", message_id)


async def test_a_run_goes_by_the_queue_s_back_off_as_it_is_at_the_moment(stage: Stage) -> None:
    (sent,) = await stage.send(1)
    async with pgqrs.Consumer(stage.dsn, QUEUE) as consumer, running(consumer, refuse):
        assert await delay_after(stage, sent, 1) == pytest.approx(3600, abs=30)
        await due(stage, sent)
        assert await delay_after(stage, sent, 2) == pytest.approx(3 * 3600, abs=30)
        await stage.admin.set_policy(QUEUE, pgqrs.QueuePolicy(read_limit=9, backoff=replace(OWN, factor=1)))
        await due(stage, sent)
        assert await delay_after(stage, sent, 3) == pytest.approx(3600, abs=30)


async def test_a_run_with_a_back_off_of_its_own_goes_by_that(stage: Stage) -> None:
    (sent,) = await stage.send(1)
    own = Backoff(first=timedelta(hours=7), most=timedelta(days=1), jitter=0)
    async with pgqrs.Consumer(stage.dsn, QUEUE) as consumer, running(consumer, refuse, backoff=own):
        assert await delay_after(stage, sent, 1) == pytest.approx(7 * 3600, abs=30)


async def test_a_queue_s_back_off_ends_at_its_read_limit(stage: Stage) -> None:
    await stage.admin.set_policy(QUEUE, pgqrs.QueuePolicy(read_limit=1, backoff=OWN))
    (sent,) = await stage.send(1)
    async with pgqrs.Consumer(stage.dsn, QUEUE) as consumer, running(consumer, refuse):
        assert await eventually(stage.dead) == {sent: "failed 1 times, at last with ValueError: no such address"}


# -- the arithmetic of the server is that of the library


async def delays(stage: Stage, attempts: list[int]) -> list[float]:
    """Let messages fail that were leased so often, all in one statement, and give how many seconds each waits."""
    worker = await lifecycle.register(stage.admin.database, QUEUE, hostname="host")
    sent = await stage.send(len(attempts))
    await stage.observer.executemany(
        "UPDATE pgqrs_messages SET consumer_worker_id = $1, read_ct = $3 WHERE id = $2",
        [(worker.id, message_id, count) for message_id, count in zip(sent, attempts, strict=True)],
    )
    await stage.admin.database.fetch("messages.fail", worker.id, sent, [None] * len(sent), ["it failed"] * len(sent))
    rows = [await stage.row(message_id) for message_id in sent]
    assert {row["consumer_worker_id"] for row in rows} == {None}
    return [row["delay"] for row in rows]


@pytest.mark.parametrize("factor", [1, 1.0001, 1.5, 4, 1_000_000])
@pytest.mark.parametrize(
    ("first", "most"),
    [
        (timedelta(seconds=100), timedelta(days=300)),
        (timedelta(), timedelta(days=1)),
        (timedelta(days=1), timedelta()),
        (CENTURY, CENTURY),
    ],
    ids=str,
)
async def test_the_server_delays_as_the_library_does(
    stage: Stage, first: timedelta, most: timedelta, factor: float
) -> None:
    backoff = Backoff(first=first, factor=factor, most=most, jitter=0)
    limit = 2**31 - 1
    await stage.admin.set_policy(QUEUE, pgqrs.QueuePolicy(read_limit=limit, backoff=backoff))
    attempts = [1, 2, 3, 10, 1000, 100_000, limit - 1]
    found = await delays(stage, attempts)
    assert found == [pytest.approx(backoff.seconds(attempt), rel=1e-6, abs=60) for attempt in attempts]


async def test_chance_takes_away_no_more_than_its_share_and_not_the_same_of_all(stage: Stage) -> None:
    backoff = Backoff(first=timedelta(seconds=10_000), factor=1, most=timedelta(days=1), jitter=0.25)
    await stage.admin.set_policy(QUEUE, pgqrs.QueuePolicy(read_limit=9, backoff=backoff))
    found = await delays(stage, [1] * 200)
    assert 7400 <= min(found) < 8000
    assert 9500 < max(found) <= 10_000


@pytest.mark.parametrize("number", ["0", "-1", "'NaN'", "'Infinity'", "'-Infinity'", "1e300"])
@pytest.mark.parametrize("length", ["'-1 day'", "'1000000 years'", "'-1000000 years'"])
async def test_whatever_was_written_by_hand_nobody_is_held_up(stage: Stage, number: str, length: str) -> None:
    await stage.observer.execute(
        f"UPDATE pgqrs_queues SET backoff_first = {length}, backoff_factor = {number}, backoff_most = {length},"
        f" backoff_jitter = {number}"
    )
    backoff = (await stage.admin.get_queue(QUEUE)).policy.backoff
    assert 1 <= backoff.factor <= 1_000_000
    assert 0 <= backoff.jitter <= 1
    assert backoff.first == backoff.most
    assert backoff.first in {timedelta(), CENTURY}
    assert all(-60 <= delay <= CENTURY.total_seconds() for delay in await delays(stage, [1, 2, 5]))


# -- the row


async def test_a_policy_is_read_as_it_was_written(admin: pgqrs.Admin) -> None:
    policy = pgqrs.QueuePolicy(
        death_limit=2**15 - 1,
        deduplication_window=timedelta(days=2, microseconds=1),
        backoff=Backoff(first=timedelta(seconds=2), factor=1.1, most=HOUR, jitter=0.07),
    )
    assert (await admin.create_queue("emails", policy)).policy == policy
    assert (await admin.get_queue("emails")).policy == policy
    other = replace(policy, paused=True, death_limit=1, deduplication_window=CENTURY, backoff=Backoff())
    assert (await admin.set_policy("emails", other)).policy == other
    assert (await admin.create_queue("others")).policy == pgqrs.QueuePolicy()


async def test_only_the_row_that_was_seen_is_removed(admin: pgqrs.Admin) -> None:
    db = admin.database
    seen = await admin.create_queue("emails")
    for change in (replace(seen, id=QueueId(seen.id + 1)), replace(seen, owner="shop/emails")):
        with pytest.raises(pgqrs.QueueNotFoundError, match="another one by now"):
            await queues.delete(db, "emails", seen=change)
    assert (await admin.get_queue("emails")).id == seen.id
    await queues.delete(db, "emails", seen=seen)
    with pytest.raises(pgqrs.QueueNotFoundError):
        await admin.get_queue("emails")
