"""The installer: empty databases, upstream's, older generations, interruptions and rivals."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs
from pgqrs import schema, statements
from pgqrs.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Everything of the schema that an installer makes: relations, columns, constraints and types, and the history's rows.
_FINGERPRINT = """
SELECT (SELECT array_agg(relname || ' ' || relkind::text ORDER BY relname) FROM pg_class WHERE relnamespace = n.oid),
       (SELECT array_agg(attrelid::regclass || '.' || attname ORDER BY attrelid::regclass::text, attname)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = n.oid AND attnum > 0 AND NOT attisdropped),
       (SELECT array_agg(conname ORDER BY conname) FROM pg_constraint WHERE connamespace = n.oid),
       (SELECT array_agg(typname ORDER BY typname) FROM pg_type WHERE typnamespace = n.oid)
FROM pg_namespace n WHERE nspname = 'public'
"""


@pytest.fixture
async def connection(empty_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(empty_dsn)
    yield opened
    await opened.close()


async def _like_upstream(connection: asyncpg.Connection) -> None:
    """Leave the database as upstream's bootstrap does; `tests/interop` compares with the real one."""
    await connection.execute(statements.migration("upstream_0_15_3", "public"))
    for version, description, checksum in schema.UPSTREAM_CHECKSUMS:
        await connection.execute(
            statements.statement("schema.record_upstream", "public"), version, description, bytes.fromhex(checksum)
        )


async def test_an_empty_database_is_installed_and_a_second_time_changes_nothing(empty_dsn: str) -> None:
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
        await admin.create_queue("emails")
        await admin.install()
        await admin.verify()
        assert [queue.queue_name for queue in await (await admin.get_queues()).list()] == ["emails"]


async def test_tables_of_upstream_are_adopted_with_their_rows(empty_dsn: str, connection: asyncpg.Connection) -> None:
    await _like_upstream(connection)
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


@pytest.mark.parametrize(
    "obstacle",
    [
        # Another installer is at work, or a statement of our own takes its time.
        "SELECT pg_advisory_xact_lock($1)",
        "LOCK TABLE pgqrs_messages IN ACCESS SHARE MODE",
    ],
)
async def test_an_installation_has_more_time_than_a_call(
    empty_dsn: str, connection: asyncpg.Connection, obstacle: str
) -> None:
    await _like_upstream(connection)
    key = schema.lock_key(await connection.fetchval("SELECT current_database()"))
    outwaited = "SELECT EXISTS (SELECT FROM pg_locks WHERE clock_timestamp() - waitstart > 2 * $1::interval)"
    async with Database(empty_dsn, timeout=0.5) as database:
        async with connection.transaction():
            await connection.execute(obstacle, *([key] if "$1" in obstacle else []))
            installing = asyncio.create_task(schema.install(database))
            async with asyncio.timeout(8):
                while not await connection.fetchval(outwaited, timedelta(seconds=database.timeout)):
                    assert not installing.done(), installing.result()
                    await asyncio.sleep(0.02)
        await installing
        await schema.verify(database)


async def test_an_installation_that_takes_too_long_says_so_and_changes_nothing(
    empty_dsn: str, connection: asyncpg.Connection
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    before = await connection.fetchrow(_FINGERPRINT)
    async with pgqrs.Admin(empty_dsn) as admin:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", schema.lock_key(name))
            with pytest.raises(pgqrs.DatabaseUnavailableError, match=r"longer than 0:00:00\.2.*with a longer timeout"):
                await admin.install(timeout=timedelta(seconds=0.2))
        await _others_gone(connection)
        assert await connection.fetchrow(_FINGERPRINT) == before
        with pytest.raises(pgqrs.ValidationError, match="timeout is zero"):
            await admin.install(timeout=timedelta())


@asynccontextmanager
async def _held_up(dsn: str, connection: asyncpg.Connection, obstacle: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """An installer in a process of its own that waits in the middle of its transaction, for what `obstacle` locks."""
    async with connection.transaction():
        await connection.execute(obstacle)
        program = f"import asyncio, pgqrs; asyncio.run(pgqrs.Admin({dsn!r}).install())"
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        try:
            waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype <> 'advisory' AND NOT granted)"
            async with asyncio.timeout(20):
                while not await connection.fetchval(waiting):
                    await asyncio.sleep(0.02)
            yield process
        finally:
            process.kill()
            process.wait(timeout=10)


async def _others_gone(connection: asyncpg.Connection) -> None:
    """Wait until the server has noticed the death of whoever was connected to this database."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with asyncio.timeout(20):
        while await connection.fetchval(others):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("upstream_was_there", "obstacle"),
    [
        # Upstream's tables are made by now, and waits for whoever is making the table of our history.
        (False, "CREATE TABLE pgqrs_schema_migrations ()"),
        # The tables of queues and workers are altered by now, that of messages is in use.
        (True, "LOCK TABLE pgqrs_messages IN ACCESS SHARE MODE"),
    ],
)
async def test_an_installer_that_is_killed_in_the_middle_leaves_nothing_behind(
    empty_dsn: str, connection: asyncpg.Connection, *, upstream_was_there: bool, obstacle: str
) -> None:
    if upstream_was_there:
        await _like_upstream(connection)
    before = await connection.fetchrow(_FINGERPRINT)
    rolled_back = await asyncpg.connect(empty_dsn)
    try:
        async with _held_up(empty_dsn, rolled_back, obstacle) as process:
            process.kill()
            # Only now it gets what it waited for, and nobody is left to commit.
            raise _RollBackError
    except _RollBackError:
        await rolled_back.close()
    await _others_gone(connection)
    assert await connection.fetchrow(_FINGERPRINT) == before
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
        await admin.verify()


class _RollBackError(Exception):
    """Takes back what the obstacle did."""


async def test_a_table_in_use_is_waited_for_a_while_and_then_nothing_was_changed(
    empty_dsn: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody else waits behind an installer that waits for a table, so it must give up before they suffer."""
    monkeypatch.setattr(schema, "_LOCK_TIMEOUT", "100ms")
    await _like_upstream(connection)
    before = await connection.fetchrow(_FINGERPRINT)
    async with pgqrs.Admin(empty_dsn) as admin:
        async with connection.transaction():
            await connection.execute("LOCK TABLE pgqrs_messages IN ACCESS SHARE MODE")
            with pytest.raises(pgqrs.DatabaseUnavailableError, match="Install again"):
                await admin.install()
        assert await connection.fetchrow(_FINGERPRINT) == before
        await admin.install()


async def test_the_parts_of_a_migration_are_installed_one_by_one(
    empty_dsn: str, connection: asyncpg.Connection
) -> None:
    history = "SELECT version, part FROM pgqrs_schema_migrations ORDER BY part DESC, version"
    async with pgqrs.Admin(empty_dsn) as admin:
        with pytest.raises(pgqrs.SchemaError, match="lacks the pre part: 0001_pre_kubernetes"):
            await admin.install(phase="post")
        assert await connection.fetchval("SELECT to_regclass('pgqrs_queues')") is None, "nothing was written"
        await admin.install(phase="pre")
        assert {row["part"] for row in await connection.fetch(history)} == {"pre"}
        await admin.verify(phase="pre")
        with pytest.raises(pgqrs.SchemaError, match=r"lacks the post part: 0001_post_kubernetes.*phase=\"post\""):
            await admin.verify()
        await admin.create_queue("works already")
        await admin.install(phase="post")
        await admin.verify()
        assert [tuple(row) for row in await connection.fetch(history)] == [
            (migration.version, migration.part) for migration in schema.migrations()
        ]
    in_steps = await connection.fetchrow(_FINGERPRINT)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
    assert await connection.fetchrow(_FINGERPRINT) == in_steps


async def test_a_phase_that_is_none_is_refused(empty_dsn: str) -> None:
    async with Database(empty_dsn) as database:
        with pytest.raises(pgqrs.ValidationError, match="pre, post or all"):
            await schema.install(database, phase="both")  # type: ignore[arg-type]


def test_every_file_of_migrations_is_one_that_is_installed() -> None:
    files = set(statements.migration_files()) - {"upstream_0_15_3"}
    assert {migration.file for migration in schema.migrations()} == files
    assert len({migration.key for migration in schema.migrations()}) == len(files)


async def test_a_migration_that_was_changed_after_its_installation_is_refused(
    empty_dsn: str, connection: asyncpg.Connection
) -> None:
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
        await connection.execute("UPDATE pgqrs_schema_migrations SET checksum = 'x' WHERE part = 'post'")
        for call in (admin.install, admin.verify):
            with pytest.raises(pgqrs.SchemaError, match="0001_post_kubernetes has another checksum"):
                await call()


async def test_what_was_removed_by_hand_is_named(dsn: str, admin: pgqrs.Admin) -> None:
    other = await asyncpg.connect(dsn)
    await other.execute("DROP INDEX idx_pgqrs_messages_hot_path; ALTER TABLE pgqrs_queues DROP COLUMN paused CASCADE")
    await other.close()
    with pytest.raises(pgqrs.SchemaError, match=r"column pgqrs_queues\.paused, index idx_pgqrs_messages_hot_path"):
        await admin.verify()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP FUNCTION pgqrs_check_key", "lacks function pgqrs_check_key;"),
        (
            "DROP TRIGGER pgqrs_keep_messages_of_runs ON pgqrs_messages",
            "lacks trigger pgqrs_keep_messages_of_runs;",
        ),
        ("DROP FUNCTION pgqrs_find_message_of_run CASCADE", "lacks trigger pgqrs_find_message_of_run;"),
    ],
)
async def test_what_checks_rows_is_missed_too(dsn: str, admin: pgqrs.Admin, change: str, said: str) -> None:
    await admin.verify()
    other = await asyncpg.connect(dsn)
    await other.execute(change)
    await other.close()
    with pytest.raises(pgqrs.SchemaError, match=said):
        await admin.verify()


async def test_verify_knows_every_part_of_the_tables(dsn: str, admin: pgqrs.Admin) -> None:
    """A migration that adds one and forgets to add it to `schema.missing` is found here."""
    other = await asyncpg.connect(dsn)
    parts = await other.fetch(
        "SELECT 'column ' || attrelid::regclass || '.' || attname AS name FROM pg_attribute "
        "WHERE attrelid = ANY($1::regclass[]) AND attnum > 0 AND NOT attisdropped "
        "UNION ALL SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE indrelid = ANY($1::regclass[]) "
        "UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal "
        "UNION ALL SELECT 'function ' || proname FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace AND prorettype <> 'trigger'::regtype",
        ["pgqrs_queues", "pgqrs_workers", "pgqrs_messages"],
    )
    await other.close()
    needed = await admin.database.fetch("schema.missing", "no such schema")
    assert {row["name"] for row in needed} == {row["name"] for row in parts}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE _sqlx_migrations", "upstream's record _sqlx_migrations is missing"),
        ("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 6", "its migrations 6 are others"),
        ("UPDATE _sqlx_migrations SET success = false WHERE version >= 4", "its migrations 4, 6 are others"),
        ("INSERT INTO _sqlx_migrations VALUES (7, 'newer', now(), true, '\\x00', 0)", "its migrations 7 are others"),
    ],
)
async def test_tables_that_0_15_3_did_not_make_are_refused_and_left_as_they_are(
    empty_dsn: str, connection: asyncpg.Connection, change: str, said: str
) -> None:
    await _like_upstream(connection)
    await connection.execute(change)
    before = await connection.fetchrow(_FINGERPRINT)
    async with pgqrs.Admin(empty_dsn) as admin:
        with pytest.raises(pgqrs.SchemaError, match=said):
            await admin.install()
    assert await connection.fetchrow(_FINGERPRINT) == before


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


async def test_what_a_newer_release_cleaned_up_is_refused_and_what_it_added_is_not(
    empty_dsn: str, connection: asyncpg.Connection
) -> None:
    """Its pre part runs while our code still works; its post part says that none of our code is left."""
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
        newer = "INSERT INTO pgqrs_schema_migrations (version, part, name, checksum) VALUES (999, $1, 'later', 'x')"
        await connection.execute(newer, "pre")
        await admin.install()
        await admin.verify()
        await connection.execute(newer, "post")
        for call in (admin.install, admin.verify):
            with pytest.raises(pgqrs.SchemaError, match=r"newer release \(migration 999, post\)"):
                await call()


def test_the_lock_is_upstream_s_signed_64_bit_key() -> None:
    assert schema.lock_key("postgres") == 368907709894077238  # 0x3d32ad9e * 359303029, computed apart
