"""What processes died under: handed out with care before it is given up, because too many have died."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import pgqrs
from pgqrs import fleet, lifecycle
from pgqrs.models import PodIdentity, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

QUEUE = "emails"
POLICY = pgqrs.QueuePolicy(death_limit=3, read_limit=100)
LAST_CHANCE = pgqrs.QueuePolicy(death_limit=2, read_limit=100)
EXIT = "container app: OOMKilled (137)"


@pytest.fixture
async def producer(admin: pgqrs.Admin) -> AsyncIterator[pgqrs.Producer]:
    await admin.create_queue(QUEUE, POLICY)
    async with pgqrs.Producer(admin, QUEUE) as opened:
        yield opened


async def _taken(admin: pgqrs.Admin, count: int) -> tuple[pgqrs.Consumer, list[int]]:
    """Let a new worker take messages; give it and their ids."""
    consumer = pgqrs.Consumer(admin, QUEUE)
    await consumer.start()
    return consumer, [message.id for message in await consumer.dequeue(count)]


async def _die(admin: pgqrs.Admin, consumer: pgqrs.Consumer) -> int:
    worker_id = consumer.worker_id
    released = await lifecycle.stop(admin.database, [worker_id], reason=lifecycle.DIED, died=True)
    await consumer.aclose()
    return released[worker_id]


async def test_after_a_first_death_others_get_everything_at_once(admin: pgqrs.Admin, producer: pgqrs.Producer) -> None:
    sent = await producer.enqueue_batch([1, 2, 3])
    victim, _ = await _taken(admin, 3)
    assert await _die(admin, victim) == 3
    other, got = await _taken(admin, 10)
    assert got == sent
    await other.aclose()


async def test_what_has_one_chance_left_is_handed_to_each_worker_one_at_a_time(
    admin: pgqrs.Admin, producer: pgqrs.Producer
) -> None:
    await admin.set_policy(QUEUE, LAST_CHANCE)
    suspects = await producer.enqueue_batch([1, 2, 3])
    victim, held = await _taken(admin, 3)
    assert held == suspects
    assert await _die(admin, victim) == 3
    others = await producer.enqueue_batch([4, 5, 6, 7])
    first, got = await _taken(admin, 3)
    assert got == [suspects[0], *others[:2]], "one of them, and others"
    assert [message.id for message in await first.dequeue(2)] == others[2:], "no second one while it holds the first"
    second, got = await _taken(admin, 3)
    assert got == [suspects[1]]
    assert await first.archive(suspects[0])
    assert [message.id for message in await first.dequeue(3)] == [suspects[2]]
    await first.aclose()
    await second.aclose()


async def test_who_takes_one_message_at_a_time_gets_them_all(admin: pgqrs.Admin, producer: pgqrs.Producer) -> None:
    await admin.set_policy(QUEUE, LAST_CHANCE)
    sent = await producer.enqueue_batch([1, 2])
    victim, _ = await _taken(admin, 1)
    await _die(admin, victim)
    consumer, got = await _taken(admin, 1)
    assert got == [sent[0]]
    assert [message.id for message in await consumer.dequeue()] == [sent[1]]
    await consumer.aclose()


async def test_a_lease_that_ran_out_is_no_reason_to_wait(
    admin: pgqrs.Admin, producer: pgqrs.Producer, connection: asyncpg.Connection
) -> None:
    await admin.set_policy(QUEUE, LAST_CHANCE)
    sent = await producer.enqueue_batch([1, 2])
    victim, _ = await _taken(admin, 2)
    await _die(admin, victim)
    consumer, got = await _taken(admin, 2)
    assert got == sent[:1]
    await connection.execute("UPDATE pgqrs_messages SET vt = now() - interval '1 hour' WHERE id = $1", sent[0])
    assert [message.id for message in await consumer.dequeue(2)] == [sent[0]]
    await consumer.aclose()


async def test_after_too_many_deaths_it_is_a_dead_letter_that_says_so(
    admin: pgqrs.Admin, producer: pgqrs.Producer
) -> None:
    poison = await producer.enqueue("poison", key="k")
    for death in range(1, POLICY.death_limit + 1):
        counted = await admin.queue_counts(QUEUE)
        assert (counted.ready, counted.dead) == (1, 0), f"before death {death}"
        victim, got = await _taken(admin, 1)
        assert got == [poison]
        name = (await lifecycle.get(admin.database, victim.worker_id)).name
        worker_id = victim.worker_id
        assert await _die(admin, victim) == 1
    table = await admin.get_messages()
    (letter,) = await table.dead_letters(QUEUE)
    assert letter.id == poison
    assert letter.reason == f"3 processes died while it held this, at last worker {worker_id} ({name}): process died"
    assert (await admin.queue_counts(QUEUE)).ready == 0
    await table.replay(poison)
    consumer, got = await _taken(admin, 1)
    assert got == [poison], "who sends it again trusts it again"
    assert await _die(admin, consumer) == 1
    assert (await admin.queue_counts(QUEUE)).ready == 1


async def test_only_a_death_of_its_own_counts(
    admin: pgqrs.Admin, producer: pgqrs.Producer, connection: asyncpg.Connection
) -> None:
    sent = await producer.enqueue("x")
    for terminating in (True, False):
        consumer, _ = await _taken(admin, 1)
        await connection.execute(
            "UPDATE pgqrs_workers SET terminating = $2 WHERE id = $1", consumer.worker_id, terminating
        )
        if terminating:
            assert await _die(admin, consumer) == 1
        else:
            worker_id = consumer.worker_id
            assert await lifecycle.stop(admin.database, [worker_id], reason="closed") == {worker_id: 1}
            await consumer.aclose()
        assert await connection.fetchval("SELECT deaths FROM pgqrs_messages WHERE id = $1", sent) is None


@pytest.mark.parametrize("seed", range(5))
async def test_a_poison_message_takes_no_other_with_it(admin: pgqrs.Admin, producer: pgqrs.Producer, seed: int) -> None:
    """Whoever holds a poison message when it begins with it dies, with all that it holds; in any order."""
    chance = random.Random(seed)
    sent = list(await producer.enqueue_batch(range(40)))
    poison = chance.choice(sent)
    done: list[int] = []
    deaths = 0
    for _ in range(200):
        consumer, held = await _taken(admin, chance.randint(1, 8))
        if not held:
            await consumer.aclose()
            break
        chance.shuffle(held)
        while held:
            message = held.pop()
            if message == poison:
                deaths += 1
                await _die(admin, consumer)
                break
            assert await consumer.archive(message)
            done.append(message)
        else:
            await consumer.aclose()
    assert sorted(done) == [message for message in sent if message != poison], "each is done once"
    letters = await (await admin.get_messages()).dead_letters(QUEUE)
    assert [letter.id for letter in letters] == [poison]
    assert deaths == POLICY.death_limit


async def _pod_worker(admin: pgqrs.Admin, uid: str) -> WorkerInfo:
    pod = PodIdentity(uid=uid, name="web", namespace="shop", container="app")
    return await lifecycle.register(admin.database, QUEUE, hostname="web.shop", pod=pod)


async def test_what_is_learnt_of_the_end_is_written_on_worker_and_letter(
    admin: pgqrs.Admin, producer: pgqrs.Producer, connection: asyncpg.Connection
) -> None:
    await admin.set_policy(QUEUE, pgqrs.QueuePolicy(death_limit=1))
    sent = [await producer.enqueue(number) for number in range(3)]
    workers = []
    for uid, message in zip(("u-1", "u-2", "u-1"), sent, strict=True):
        worker = await _pod_worker(admin, uid)
        workers.append(worker.id)
        await connection.execute(
            "UPDATE pgqrs_messages SET consumer_worker_id = $2, vt = now() + interval '1 hour' WHERE id = $1",
            message,
            worker.id,
        )
    now = datetime.now(UTC)
    # The third one was gone before this container began.
    await lifecycle.stop(admin.database, workers, reason=lifecycle.DIED, died=True)
    before = "UPDATE pgqrs_workers SET shutdown_at = now() - interval '1 hour' WHERE id = $1"
    await connection.execute(before, workers[2])
    end = fleet.ContainerEnd(
        pod_uid="u-1", container="app", began=now - timedelta(minutes=5), ended=now + timedelta(seconds=2), reason=EXIT
    )
    for _ in range(2):
        await fleet.explain_deaths(admin.database, [end])
        reasons = [(await lifecycle.get(admin.database, worker)).stop_reason for worker in workers]
        assert reasons == [f"process died: {EXIT}", "process died", "process died"]
        letters = await (await admin.get_messages()).dead_letters(QUEUE)
        assert [letter.reason.endswith(f": process died: {EXIT}") for letter in letters] == [True, False, False]
        assert [letter.reason.startswith("1 process died while it held this") for letter in letters] == [True] * 3
