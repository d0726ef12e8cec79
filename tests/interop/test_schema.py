"""The tables and upstream's real client: what it made we adopt, what we made it accepts, and what we may not touch."""

from __future__ import annotations

import asyncio
import re

import asyncpg
import pytest

import pgqrs
from pgqrs import statements
from tests.interop import catalog
from tests.support import upstream

#: What of upstream's is gone after ours is installed, and why it may be.
_REMOVED = {
    "constraint pgqrs_messages.fk_messages_queue_id": "checked on every enqueue; who deletes a queue looks for them",
    "constraint pgqrs_messages.fk_messages_producer_worker_id": "in the way of purging workers that once sent",
    "constraint pgqrs_messages.fk_messages_consumer_worker_id": "in the way of purging workers that once held",
    "constraint pgqrs_workflow_runs.pgqrs_workflow_runs_message_id_fkey": "looked for a run for each deleted message",
    "index idx_pgqrs_messages_producer_worker_id": "only served the foreign key of the producer",
    "index idx_pgqrs_workers_heartbeat": "makes every heartbeat four times dearer",
}
#: Storage parameters that no client can see.
_STORAGE = {"options pgqrs_workers": "room on the page for heartbeats that touch no index"}
#: What says the same as a foreign key that is gone (`tests/database/test_workflow_runs.py`).
_INSTEAD = {
    "trigger pgqrs_messages.pgqrs_keep_messages_of_runs",
    "function pgqrs_keep_messages_of_runs",
    "trigger pgqrs_workflow_runs.pgqrs_find_message_of_run",
    "function pgqrs_find_message_of_run",
}
#: What our own statements call; upstream knows nothing of it.
_OUR_FUNCTIONS = {"function pgqrs_check_key"}
#: Tables of our own; upstream knows nothing of them.
_OUR_TABLES = {"pgqrs_schema_migrations", "pgqrs_schema_roles"}


async def _catalog(dsn: str) -> dict[str, str]:
    connection = await asyncpg.connect(dsn)
    try:
        return await catalog.read(connection)
    finally:
        await connection.close()


async def test_our_copy_of_upstream_s_tables_is_exactly_what_upstream_installs(
    empty_dsn: str, connection: asyncpg.Connection
) -> None:
    async with upstream.client(empty_dsn) as theirs:
        assert await theirs.call("version") == upstream.VERSION
        await theirs.call("bootstrap")
    real = await _catalog(empty_dsn)
    await connection.execute("CREATE SCHEMA copy")
    await connection.execute(statements.migration("upstream_0_15_3", "copy"))
    copied = {name: text.replace("copy.", "public.") for name, text in (await catalog.read(connection, "copy")).items()}
    plain = {name: re.sub(r"\bpublic\.", "", text or "") for name, text in real.items()}
    assert {name: re.sub(r"\bpublic\.", "", text or "") for name, text in copied.items()} == plain


async def test_the_record_of_upstream_s_migrations_is_what_upstream_writes(
    empty_dsn: str, connection: asyncpg.Connection
) -> None:
    query = "SELECT version, description, success, checksum FROM _sqlx_migrations ORDER BY version"
    async with upstream.client(empty_dsn) as theirs:
        await theirs.call("bootstrap")
    other = await asyncpg.connect(empty_dsn)
    real = await other.fetch(query)
    await other.close()
    assert [tuple(row) for row in await connection.fetch(query)] == [tuple(row) for row in real]


async def test_our_migrations_touch_nothing_that_upstream_relies_on(empty_dsn: str) -> None:
    """Whatever a migration changes in upstream's tables has to be allowed here, with its reason."""
    async with upstream.client(empty_dsn) as theirs:
        await theirs.call("bootstrap")
    before = await _catalog(empty_dsn)
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install(phase="pre")
        added = catalog.compare(before, await _catalog(empty_dsn))
        assert not added.removed, "a pre part only adds"
        await admin.install(phase="post")
    difference = catalog.compare(before, await _catalog(empty_dsn))
    assert difference.removed == _REMOVED.keys()
    assert not difference.changed, "no type, default, constraint, index or enum of upstream's becomes another"
    upstream_tables = {name.removeprefix("table ") for name in before if name.startswith("table ")}
    for name, text in difference.added.items():
        kind, _, rest = name.partition(" ")
        table, _, column = rest.partition(".")
        if name in _INSTEAD | _OUR_FUNCTIONS:
            continue
        if table in _OUR_TABLES or (kind == "index" and any(f" ON public.{own} " in text for own in _OUR_TABLES)):
            continue
        assert table in upstream_tables or kind == "index", f"{name} is in nobody's table"
        match kind:
            case "column":
                # Upstream inserts rows without naming this column, and reads rows by the names of columns.
                assert "not null" not in text or "default " in text, f"an INSERT of upstream's would fail for {column}"
            case "index":
                # A unique one may only look at rows with a value in a column of ours, which upstream leaves NULL.
                ours = [added.rpartition(".")[2] for added in difference.added if added.startswith("column ")]
                never_theirs = any(f"{column} IS NOT NULL" in text.partition(" WHERE ")[2] for column in ours)
                assert not text.startswith("CREATE UNIQUE") or never_theirs, (
                    f"an INSERT of upstream's could fail: {text}"
                )
            case "options":
                assert name in _STORAGE
            case _:
                pytest.fail(f"{name} is neither a column nor an index: {text}")


async def test_a_database_that_upstream_made_and_used_is_adopted_with_all_its_rows(empty_dsn: str) -> None:
    async with upstream.client(empty_dsn) as theirs:
        await theirs.call("bootstrap")
        queue_id = await theirs.call("create_queue", queue="emails")
        await theirs.call("producer", queue="emails", name="sender")
        worker = await theirs.call("consumer", queue="emails", name="receiver")
        other = await asyncpg.connect(empty_dsn)
        await other.execute("UPDATE pgqrs_workers SET name = 'receiver:7' WHERE id = $1", worker)
        await other.close()
        sent = [await theirs.call("enqueue", name="sender", payload={"n": n}) for n in range(4)]
        await theirs.call("dequeue", name="receiver", limit=2)
        assert await theirs.call("archive", name="receiver", message_id=sent[0])
        async with pgqrs.Admin(empty_dsn) as admin:
            await admin.install()
            await admin.verify()
            assert await admin.queue_counts("emails") == pgqrs.QueueCounts(
                ready=2, delayed=0, leased=1, dead=0, archived=1
            )
            adopted = await (await admin.get_workers()).get(worker)
            assert (adopted.hostname, adopted.port, adopted.queue_id) == ("receiver", 7, queue_id)
            async with pgqrs.Consumer(admin, "emails") as ours:
                assert [message.id for message in await ours.dequeue(10)] == sent[2:]
        # The lease that it held during the adoption is still its own.
        assert await theirs.call("archive", name="receiver", message_id=sent[1])
        await theirs.call("bootstrap")
        await theirs.call("verify")


async def test_upstream_bootstraps_again_after_ours(theirs: upstream.UpstreamClient, admin: pgqrs.Admin) -> None:
    for _ in range(2):
        await theirs.call("bootstrap")
        await theirs.call("install")
        await theirs.call("verify")
        await admin.install()
        await admin.verify()


async def test_however_the_two_are_installed_the_tables_are_the_same(
    empty_dsn: str, connection: asyncpg.Connection
) -> None:
    async with upstream.client(empty_dsn) as theirs:
        await theirs.call("bootstrap")
    async with pgqrs.Admin(empty_dsn) as admin:
        await admin.install()
    assert await _catalog(empty_dsn) == await catalog.read(connection)


async def test_both_installers_at_once_on_an_empty_database(empty_dsn: str) -> None:
    """Upstream's bootstrap and ours wait for each other, whoever comes first."""
    async with (
        upstream.client(empty_dsn) as first,
        upstream.client(empty_dsn) as second,
        pgqrs.Admin(empty_dsn) as admin,
        pgqrs.Admin(empty_dsn) as another,
    ):
        await asyncio.gather(first.call("bootstrap"), admin.install(), second.call("bootstrap"), another.install())
        await first.call("verify")
        await admin.verify()


async def test_a_schema_of_its_own_serves_both(dsn: str, connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE SCHEMA jobs")
    async with upstream.client(dsn, schema="jobs") as theirs, pgqrs.Admin(dsn, schema="jobs") as admin:
        await theirs.call("bootstrap")
        await admin.install()
        await admin.create_queue("emails")
        await theirs.call("producer", queue="emails", name="sender")
        sent = await theirs.call("enqueue", name="sender", payload="x")
        async with pgqrs.Consumer(admin, "emails") as ours:
            assert [message.id for message in await ours.dequeue()] == [sent]
    assert await connection.fetchval("SELECT count(*) FROM public.pgqrs_messages") == 0


async def test_upstream_works_with_the_rights_of_a_producer_and_consumer(
    dsn: str, admin: pgqrs.Admin, connection: asyncpg.Connection
) -> None:
    prefix = "interop_"
    await admin.install(role_prefix=prefix)
    await admin.create_queue("emails")
    await connection.execute("CREATE ROLE interop_login LOGIN PASSWORD 'x' IN ROLE interop_producer, interop_consumer")
    try:
        async with upstream.client(dsn.replace("postgres:canary-Pa55word", "interop_login:x")) as theirs:
            await theirs.call("producer", queue="emails", name="sender")
            await theirs.call("consumer", queue="emails", name="receiver")
            sent = await theirs.call("enqueue", name="sender", payload="x")
            assert [one["id"] for one in await theirs.call("dequeue", name="receiver")] == [sent]
            assert await theirs.call("archive", name="receiver", message_id=sent)
    finally:
        await connection.execute("DROP OWNED BY interop_login; DROP ROLE interop_login")
        for role in ("producer", "consumer", "observer"):
            await connection.execute(f"DROP OWNED BY {prefix}{role}; DROP ROLE {prefix}{role}")
        await connection.execute(f"REASSIGN OWNED BY {prefix}owner TO postgres; DROP OWNED BY {prefix}owner")
        await connection.execute(f"DROP ROLE {prefix}owner")
