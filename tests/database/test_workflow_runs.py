"""Runs of upstream's workflows refer to messages: triggers say what upstream's foreign key said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_RUN = """
INSERT INTO pgqrs_workflow_runs (workflow_id, message_id, status) SELECT id, $1, 'QUEUED' FROM pgqrs_workflows
"""
_DELETE = "DELETE FROM pgqrs_messages WHERE id = $1"
_WAITS = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    found = await asyncpg.connect(dsn)
    yield found
    await found.close()


@pytest.fixture
async def messages(dsn: str, connection: asyncpg.Connection) -> AsyncIterator[list[int]]:
    """Two messages, and a workflow whose runs can refer to them."""
    async with pgqrs.Admin(dsn) as admin:
        await admin.create_queue("emails")
        await connection.execute("INSERT INTO pgqrs_workflows (name, queue_id) SELECT 'flow', id FROM pgqrs_queues")
        async with pgqrs.Producer(admin, "emails") as producer:
            yield list(await producer.enqueue_batch([{}, {}]))


async def test_no_foreign_key_is_asked_for_each_deleted_message(connection: asyncpg.Connection) -> None:
    asked = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND confrelid = 'pgqrs_messages'::regclass"
    assert await connection.fetchval(asked) == 0


async def test_a_message_that_a_run_refers_to_cannot_be_deleted(
    connection: asyncpg.Connection, messages: list[int]
) -> None:
    await connection.execute(_RUN, messages[0])
    with pytest.raises(asyncpg.ForeignKeyViolationError) as refused:
        await connection.execute("DELETE FROM pgqrs_messages")
    assert refused.value.constraint_name == "pgqrs_workflow_runs_message_id_fkey"
    assert await connection.fetchval("SELECT count(*) FROM pgqrs_messages") == len(messages)
    await connection.execute(_DELETE, messages[1])
    await connection.execute("DELETE FROM pgqrs_workflow_runs")
    await connection.execute(_DELETE, messages[0])


async def test_a_run_needs_its_message(connection: asyncpg.Connection, messages: list[int]) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute(_RUN, messages[1] + 1000)
    await connection.execute(_RUN, messages[0])
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute("UPDATE pgqrs_workflow_runs SET message_id = $1", messages[1] + 1000)
    await connection.execute("UPDATE pgqrs_workflow_runs SET message_id = $1", messages[1])


@pytest.mark.parametrize("first", ["the run", "the deletion"])
async def test_a_run_and_the_deletion_of_its_message_at_once_wait_for_each_other(
    dsn: str, connection: asyncpg.Connection, messages: list[int], first: str
) -> None:
    other = await asyncpg.connect(dsn)
    watch = await asyncpg.connect(dsn)
    statements = [_RUN, _DELETE] if first == "the run" else [_DELETE, _RUN]
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statements[0], messages[0])
        second = asyncio.create_task(other.execute(statements[1], messages[0]))
        async with asyncio.timeout(20):
            while not await watch.fetchval(_WAITS):
                assert not second.done(), "nobody waited"
        await transaction.commit()
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await second
    finally:
        await other.close()
        await watch.close()
