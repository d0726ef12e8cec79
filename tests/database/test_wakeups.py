"""Idle consumers are told of what comes back to their queue, not only of what is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

QUEUE = "emails"


@pytest.fixture
async def observer(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def letters(admin: pgqrs.Admin) -> list[int]:
    """Two dead letters of a queue."""
    await admin.create_queue(QUEUE)
    async with pgqrs.Producer(admin, QUEUE) as producer, pgqrs.Consumer(admin, QUEUE) as consumer:
        ids: list[int] = [await producer.enqueue(number) for number in range(2)]
        await consumer.dequeue(2)
        assert await consumer.dead_letter_many(ids, "broken") == [True, True]
    return ids


async def _one(messages: pgqrs.Messages, ids: list[int]) -> None:
    assert await messages.replay(ids[0])


async def _many(messages: pgqrs.Messages, ids: list[int]) -> None:
    assert await messages.replay_many(ids) == [True, True]


async def _matching(messages: pgqrs.Messages, ids: list[int]) -> None:
    assert await messages.replay_matching(QUEUE, reason="broken") == len(ids)


@pytest.mark.parametrize("replay", [_one, _many, _matching])
async def test_whoever_waits_is_told_once_of_letters_that_are_replayed(
    admin: pgqrs.Admin, observer: asyncpg.Connection, letters: list[int], replay: Callable[..., Awaitable[None]]
) -> None:
    queue_id = await observer.fetchval("UPDATE pgqrs_queues SET idle_until = now() + interval '1 hour' RETURNING id")
    assert await _heard(observer, replay(await admin.get_messages(), letters)) == [f'"public" {queue_id}']


@pytest.mark.parametrize("replay", [_one, _many, _matching])
async def test_nobody_is_told_while_nobody_waits(
    admin: pgqrs.Admin, observer: asyncpg.Connection, letters: list[int], replay: Callable[..., Awaitable[None]]
) -> None:
    await observer.execute("UPDATE pgqrs_queues SET idle_until = now() - interval '1 second'")
    assert await _heard(observer, replay(await admin.get_messages(), letters)) == []


async def _heard(observer: asyncpg.Connection, call: Awaitable[None]) -> list[object]:
    """Make a call and give what was told until a word that was sent after it."""
    heard: list[object] = []
    over = asyncio.Event()

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload == "over":
            over.set()
        else:
            heard.append(payload)

    await observer.add_listener("pgqrs", hear)
    await call
    await observer.execute("SELECT pg_notify('pgqrs', 'over')")
    async with asyncio.timeout(20):
        await over.wait()
    await observer.remove_listener("pgqrs", hear)
    return heard
