"""The installer: empty databases, upstream's, older generations, interruptions and rivals."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs
from pgqrs import schema, statements
from pgqrs.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def connection(empty_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(empty_dsn)
    yield opened
    await opened.close()


async def test_an_empty_database_is_installed_and_a_second_time_changes_nothing(empty_dsn: str) -> None:
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
        await admin.create_queue("emails")
        await admin.install()
        await admin.verify()
        assert [queue.queue_name for queue in await (await admin.get_queues()).list()] == ["emails"]


async def test_tables_of_upstream_are_adopted_with_their_rows(empty_dsn: str, connection: asyncpg.Connection) -> None:
    await connection.execute(statements.migration("upstream_0_15_3", "public"))
    await connection.execute("INSERT INTO pgqrs_queues (queue_name) VALUES ('theirs')")
    await connection.execute("INSERT INTO pgqrs_workers (name, queue_id) VALUES ('host-1234', 1), ('host:3000', 1)")
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
        workers = await (await admin.get_workers()).filter_by_queue("theirs")
    assert [(worker.hostname, worker.port) for worker in workers] == [("host-1234", None), ("host", 3000)]


async def test_any_name_that_upstream_takes_still_fits(empty_dsn: str, connection: asyncpg.Connection) -> None:
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
    for name in ("", "a:b", "a:99999999999999999999", ":1", "a\nb:7", "x" * 3000):
        await connection.execute("INSERT INTO pgqrs_workers (name) VALUES ($1)", name)


@pytest.mark.parametrize(
    ("tables", "generation"),
    [
        ("CREATE TABLE pgqrs_queues (); CREATE TABLE pgqrs_archive ()", "0.13.0 or older"),
        ("CREATE TABLE pgqrs_queues (); CREATE TABLE pgqrs_workers (hostname text)", "0.14.0 to 0.15.1"),
        ("CREATE TABLE pgqrs_queues (); CREATE TABLE pgqrs_workers (name text)", "pgqrs_messages missing"),
    ],
)
async def test_older_generations_are_refused_by_name_and_left_as_they_are(
    empty_dsn: str, connection: asyncpg.Connection, tables: str, generation: str
) -> None:
    await connection.execute(tables)
    before = await connection.fetch("SELECT relname FROM pg_class ORDER BY oid")
    async with pgqrs.Admin(empty_dsn) as admin:
        with pytest.raises(pgqrs.SchemaError, match=generation):
            await admin.install()
    assert await connection.fetch("SELECT relname FROM pg_class ORDER BY oid") == before


async def test_two_installers_at_once_both_succeed(empty_dsn: str) -> None:
    databases = [Database(empty_dsn) for _ in range(4)]
    await asyncio.gather(*(schema.install(database) for database in databases))
    for database in databases:
        await schema.verify(database)
        await database.aclose()


async def test_an_installer_waits_for_upstream_s_own_lock(empty_dsn: str, connection: asyncpg.Connection) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("SELECT pg_advisory_lock($1)", schema.lock_key(name))
    async with Database(empty_dsn) as database:
        task = asyncio.create_task(schema.install(database))
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        async with asyncio.timeout(20):
            while not await connection.fetchval(waiting):
                await asyncio.sleep(0.02)
        assert not task.done()
        await connection.execute("SELECT pg_advisory_unlock($1)", schema.lock_key(name))
        await task
        await schema.verify(database)


async def test_an_installer_that_is_killed_leaves_nothing_behind(
    empty_dsn: str, connection: asyncpg.Connection
) -> None:
    # It is held up in the middle of its transaction, and killed there.
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("SELECT pg_advisory_lock($1)", schema.lock_key(name))
    program = f"import asyncio, pgqrs; asyncio.run(pgqrs.Admin({empty_dsn!r}).install())"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        async with asyncio.timeout(20):
            while not await connection.fetchval(waiting):
                await asyncio.sleep(0.02)
    finally:
        process.kill()
        process.wait(timeout=10)
    await connection.execute("SELECT pg_advisory_unlock($1)", schema.lock_key(name))
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
        await admin.verify()


async def test_a_database_without_tables_says_what_to_do(empty_dsn: str) -> None:
    async with pgqrs.Admin(empty_dsn) as admin:
        with pytest.raises(pgqrs.SchemaError, match=r"Admin\.install"):
            await admin.verify()
        with pytest.raises(pgqrs.SchemaError, match=r"Admin\.install"):
            await admin.get_queue("emails")


async def test_a_schema_that_is_not_there_says_how_to_make_it(empty_dsn: str) -> None:
    async with pgqrs.Admin(empty_dsn, schema="jobs") as admin:
        with pytest.raises(pgqrs.SchemaError, match="CREATE SCHEMA jobs"):
            await admin.install()


async def test_another_schema_than_public_works_beside_it(empty_dsn: str, connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE SCHEMA jobs")
    async with pgqrs.Admin(empty_dsn) as public, pgqrs.Admin(empty_dsn, schema="jobs") as jobs:
        await public.install()
        await jobs.install()
        await jobs.create_queue("emails")
        async with pgqrs.Producer(jobs, "emails") as producer, pgqrs.Consumer(jobs, "emails") as consumer:
            await producer.enqueue("hello")
            assert [message.payload for message in await consumer.dequeue()] == ["hello"]
        assert await (await public.get_queues()).count() == 0


async def test_a_migration_of_a_newer_release_is_refused(empty_dsn: str, connection: asyncpg.Connection) -> None:
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
        await connection.execute("INSERT INTO pgqrs_schema_migrations VALUES (999, 'later', 'x')")
        with pytest.raises(pgqrs.SchemaError, match="newer release"):
            await admin.install()


def test_the_lock_is_upstream_s_signed_64_bit_key() -> None:
    assert schema.lock_key("postgres") == 368907709894077238  # 0x3d32ad9e * 359303029, computed apart
