"""The plans of the hot statements: each goes by its index, however full the tables are and whatever is known of them.

A plan that reads the messages from end to end, or the workers of old, is right for ten rows and an outage for ten
million, and nobody sees the difference until then. Where a statement asks for a page, nothing may be sorted either: all
of the backlog would be. A page here is a small part of 100,000 messages, as a page of the library's is of a backlog
that hurts.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import asyncpg
import pytest

from pgqrs import statements
from pgqrs.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import pgqrs

PRIMARY = "pgqrs_messages_pkey"
HOT_PATH = "idx_pgqrs_messages_hot_path"
HELD = "idx_pgqrs_messages_consumer_worker_id_active"
ARCHIVED = "idx_pgqrs_messages_archived_at"
DEAD = "pgqrs_messages_dead"
DEAD_SINCE = "pgqrs_messages_dead_since"
SUSPECT = "pgqrs_messages_suspect"
LIVE_KEY = "pgqrs_messages_live_key"
ARCHIVED_KEY = "pgqrs_messages_archived_key"

IDS = [3, 1, 2]
DAY = timedelta(days=1)
#: Most of the backlog is behind it, whenever the test comes after this module was read.
YESTERDAY = datetime.now(UTC) - DAY
#: No pattern of the reason, no times, from the first id on, a page of 100.
ANY_LETTER = ("emails", None, None, None, 0, 100)


@dataclass(frozen=True, slots=True)
class Hot:
    """A statement, what it is run with, and by which indexes it may find messages."""

    name: str
    arguments: tuple[object, ...]
    indexes: set[str] = field(default_factory=set)
    #: Of which workers it reads the rows. For those that live it goes by an index once there are others.
    workers: Literal["few", "live", "all"] = "few"
    #: It stops after so many messages, so it must meet them in the order of the index. Where nothing is known of the
    #: tables the planner takes them for small and sorts; the dequeue must not even then.
    page: bool = False


HOT = [
    Hot("messages.enqueue", (1, ["1", "2"], 0.0, 1)),
    Hot("messages.enqueue_one", (1, "1", 0.0, 1, None)),
    Hot("messages.enqueue_each", (1, ["1", "2"], [0.0, 1.0], 1, [None, "{}"], ["a", None]), {LIVE_KEY, ARCHIVED_KEY}),
    Hot("messages.enqueue_key", (1, "1", 0.0, 1, None, "a"), {LIVE_KEY, ARCHIVED_KEY}),
    Hot("messages.dequeue", (1, 100, None, None), {HOT_PATH, SUSPECT, PRIMARY}, page=True),
    Hot("messages.archive_and_dequeue", (1, 100, None, None, IDS), {HOT_PATH, SUSPECT, PRIMARY}, page=True),
    Hot("messages.archive_and_dequeue", (1, 100, 30.0, YESTERDAY, IDS), {HOT_PATH, SUSPECT, PRIMARY}, page=True),
    Hot("messages.delete_and_dequeue", (1, 100, None, None, IDS), {HOT_PATH, SUSPECT, PRIMARY}, page=True),
    Hot("messages.archive", (1, IDS), {PRIMARY}),
    Hot("messages.delete", (1, IDS), {PRIMARY}),
    Hot("messages.release", (1, IDS, 0.0), {PRIMARY}),
    Hot("messages.dead_letter", (1, IDS, "x"), {PRIMARY}),
    Hot("messages.extend", (1, IDS, 5.0), {PRIMARY}),
    Hot("messages.renew", (1, IDS, None), {PRIMARY}),
    Hot("messages.give_back", (1, IDS), {PRIMARY}),
    Hot("messages.give_back_others", (1, IDS), {PRIMARY, HELD}),
    Hot("messages.fail", (1, IDS, [1.0, None, float("inf")], ["a", "b", "c"]), {PRIMARY}),
    Hot("queues.counts", ("emails", 101), {HOT_PATH, DEAD, DEAD_SINCE, ARCHIVED}, page=True),
    Hot("queues.live_messages", (1,), {HOT_PATH}),
    Hot("queues.delete_history", (1, 100), {ARCHIVED, PRIMARY}),
    Hot("queues.purge_live", (1, 10**9, 100), {HOT_PATH, PRIMARY}, page=True),
    Hot("queues.purge_archive", (1, 10**9, 100), {ARCHIVED, PRIMARY}, page=True),
    Hot("queues.last_message", (), {PRIMARY}),
    Hot("fleet.message_counts", (["emails", "letters"], 101), {HOT_PATH, DEAD, DEAD_SINCE}, page=True),
    Hot("dead_letters.list", ANY_LETTER, {DEAD}, page=True),
    Hot("dead_letters.replay_matching", ANY_LETTER, {DEAD, PRIMARY}, page=True),
    Hot("dead_letters.replay", (IDS,), {PRIMARY, DEAD}),
    Hot("reaping.archived", (None, DAY, 100), {ARCHIVED, PRIMARY}, page=True),
    Hot("reaping.archived", (["emails", "letters"], None, 100), {ARCHIVED, PRIMARY}, page=True),
    Hot("reaping.dead", (None, DAY, 100), {DEAD_SINCE, PRIMARY}, page=True),
    Hot("reaping.dead", (["emails", "letters"], None, 100), {DEAD_SINCE, PRIMARY}, page=True),
    Hot("reaping.exhausted", (None, 100), {HELD, PRIMARY, HOT_PATH}, page=True),
    Hot("reaping.exhausted", (["emails", "letters"], 100), {HELD, PRIMARY, HOT_PATH}, page=True),
    Hot("reaping.lock_silent", (None, 100), workers="live"),
    Hot("reaping.workers", (None, DAY, 100, False), workers="all"),
    Hot("workers.heartbeat", (1,)),
    Hot("workers.holder", ("host:1",)),
    Hot("workers.free_port", ("host",)),
    Hot("workers.get", (1,), {HELD}),
    Hot("workers.held", (1,), {HELD}),
    Hot("workers.release_held", ([1, 2],), {HELD, PRIMARY}),
    Hot("workers.hold_anything", ([1, 2],), {HELD}),
    Hot("workers.release_held_by_dead", ([1, 2],), {HELD, PRIMARY}),
    Hot("workers.explain_deaths", (["u-1"], ["app"], [0.0], [1.0], ["x"], "process died"), {DEAD_SINCE}),
    Hot("pods.beat", ("u-1", [2]), {HELD}),
    Hot("pods.adopt", ("u-1", "web-1", "shop", None, ["web-1", "web-1.shop"], "web-1.shop", "web-1", 60.0)),
    Hot("fleet.suspend", ([1, 2],), {HELD}),
    Hot("notify.mark", (1,)),
    Hot("notify.unmark", (1,)),
    Hot("fleet_reports.worker_stats", ("emails",), {HELD}, workers="all"),
    Hot("fleet_reports.worker_health", ("emails", 60.0), {HELD}),
    Hot("fleet_reports.purgeable", (DAY, "emails", False), workers="all"),
]


#: Those that run so often that PostgreSQL should stop planning them; others it goes on planning while a plan for any
#: arguments would cost more, so a bad one of that kind is never used.
MOST_FREQUENT = ("messages.", "notify.", "workers.heartbeat", "pods.beat", "pods.adopt")


@pytest.fixture
async def connection(dsn: str, admin: pgqrs.Admin) -> AsyncIterator[asyncpg.Connection]:
    for name in ("emails", "letters"):
        await admin.create_queue(name)
    opened = await asyncpg.connect(dsn)
    # What is measured here must not be vacuumed or analyzed at a moment of the server's choice.
    for table in ("pgqrs_messages", "pgqrs_workers", "pgqrs_queues"):
        await opened.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    yield opened
    await opened.close()


async def _fill(connection: asyncpg.Connection) -> None:
    """200 workers of now and 100,000 of old; and 100,000 messages.

    Of ten messages four are ready, one each delayed, leased and dead, three archived.
    """
    # An ANALYZE of its own that meets these rows before their commit finds pages without rows, and plans follow that
    # until the next one, a minute later at most (seen).
    for table in ("pgqrs_workers", "pgqrs_messages"):
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    await connection.execute(
        "INSERT INTO pgqrs_workers (name, queue_id, status, pod_uid) "
        "SELECT 'host:' || n, 1 + n % 2, CASE WHEN n % 4 < 2 THEN 'ready' ELSE 'stopped' END::worker_status, 'u-' || n "
        "FROM generate_series(1, 200) n"
    )
    await connection.execute(
        "INSERT INTO pgqrs_workers (name, queue_id, status, pod_uid, shutdown_at) "
        "SELECT 'host:' || n || '#' || n, 1 + n % 2, 'stopped', 'u-' || n, now() - n * interval '1 minute' "
        "FROM generate_series(201, 100200) n"
    )
    await connection.execute(
        "INSERT INTO pgqrs_messages (queue_id, payload, vt, enqueued_at, read_ct, consumer_worker_id, archived_at, "
        "dead_reason, dedup_key) "
        "SELECT 1 + (n / 10) % 2, '{}', now() + CASE WHEN kind IN (4, 5) THEN 1 ELSE -1 END * n * interval '1 second', "
        "       now() - interval '3 days', n % 5, CASE WHEN kind = 5 THEN 1 + n % 200 END, "
        "       CASE WHEN kind >= 6 THEN now() - n * interval '3 seconds' END, "
        "       CASE WHEN kind = 6 THEN 'timeout' END, CASE WHEN n % 3 = 0 THEN 'key ' || n END "
        "FROM (SELECT n, n % 10 AS kind FROM generate_series(1, 100000) n) numbered"
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _literal(value: object) -> str:
    """Write an argument as SQL that PostgreSQL takes for any type."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        value = "{" + ",".join("NULL" if one is None else json.dumps(str(one)) for one in value) + "}"
    if isinstance(value, timedelta):
        value = f"{value.total_seconds()} seconds"
    return "'" + str(value).replace("'", "''") + "'"


async def _plan(connection: asyncpg.Connection, hot: Hot, *, generic: bool) -> dict[str, Any]:
    """Give the plan for these arguments, or the one for any, which a prepared statement has after a while."""
    text = statements.statement(hot.name, "public")
    if not generic:
        (explained,) = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {text}", *hot.arguments))
    else:
        await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE hot AS {text}")
        arguments = f"({', '.join(map(_literal, hot.arguments))})" if hot.arguments else ""
        (explained,) = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE hot {arguments}"))
        await connection.execute("DEALLOCATE hot")
    plan: dict[str, Any] = explained["Plan"]
    return plan


async def _faults(
    connection: asyncpg.Connection, hot: Hot, *, filled: bool, analyzed: bool, generic: bool
) -> list[str]:
    """Say what is wrong with the plan of a statement; nothing is run."""
    plan = await _plan(connection, hot, generic=generic)
    nodes = list(_nodes(plan))
    found = []
    scans = [node["Node Type"] for node in nodes if node.get("Relation Name") == "pgqrs_messages"]
    if "Seq Scan" in scans:
        found.append("reads all messages")
    workers = [node["Node Type"] for node in nodes if node.get("Relation Name") == "pgqrs_workers"]
    if "Seq Scan" in workers and not (hot.workers == "all" or (hot.workers == "live" and not filled)):
        found.append("reads all workers")
    used = {node["Index Name"] for node in nodes if "Index Name" in node and "pgqrs_messages" in node["Index Name"]}
    if generic and any(
        "Scan" in node["Node Type"] and "Index Cond" not in node for node in nodes if "Index Name" in node
    ):
        found.append("reads an index from end to end")
    if not used <= hot.indexes or (hot.indexes and not used):
        found.append(f"goes by {sorted(used)} and not by {sorted(hot.indexes)}")
    # The answer of a dequeue is put in order at the end, after it was cut.
    below = [node for cut in nodes if cut["Node Type"] == "Limit" for node in _nodes(cut)]
    paged = hot.page and (analyzed or hot.name.endswith("dequeue"))
    if paged and not below:
        found.append("has no limit")
    if paged and any(node["Node Type"] in {"Sort", "Incremental Sort", "Bitmap Heap Scan"} for node in below):
        found.append("reads more than its page")
    return [f"{hot.name} {fault}: {json.dumps(plan)}" for fault in found]


@pytest.mark.parametrize("generic", [False, True], ids=["for these arguments", "for any"])
@pytest.mark.parametrize("state", ["just created", "filled and never analyzed", "filled and analyzed"])
async def test_hot_statements_go_by_their_indexes(connection: asyncpg.Connection, state: str, *, generic: bool) -> None:
    filled, analyzed = state != "just created", state == "filled and analyzed"
    if filled:
        await _fill(connection)
    if analyzed:
        await connection.execute("ANALYZE")
    faults = [
        fault
        for hot in HOT
        if not generic or hot.name.startswith(MOST_FREQUENT)
        for fault in await _faults(connection, hot, filled=filled, analyzed=analyzed, generic=generic)
    ]
    assert not faults, "\n\n".join(faults)


async def test_a_plan_that_was_made_for_an_empty_queue_is_left_when_the_queue_has_grown(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """A prepared statement keeps its plan, and a queue that is empty most of the time is analyzed while it is empty."""
    name = "messages.archive_and_dequeue"
    arguments: tuple[object, ...] = (None, 10, None, None, [])
    await connection.execute("VACUUM ANALYZE")
    async with Database(dsn, max_connections=1) as db:
        for _ in range(8):
            await db.fetch(name, *arguments)
        assert "Seq Scan" in await _kept_plan(db, name)
        await _fill(connection)
        async with asyncio.timeout(30):
            while True:
                await db.fetch(name, *arguments)
                plan = await _kept_plan(db, name)
                if plan and "Seq Scan" not in plan:
                    break


async def _kept_plan(db: Database, name: str) -> str:
    """Give the plan of a statement that the one connection has prepared; nothing where it is not prepared now."""
    async with db.connection() as connection:
        text = statements.statement(name, "public")
        prepared = await connection.fetchval("SELECT name FROM pg_prepared_statements WHERE statement = $1", text)
        if prepared is None:
            return ""
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        lines = await connection.fetch(f"EXPLAIN EXECUTE {prepared} (NULL, 10, NULL, NULL, '{{}}')")
        await connection.execute("RESET plan_cache_mode")
        return "\n".join(line[0] for line in lines if "pgqrs_messages" in line[0])


@pytest.mark.parametrize("state", ["just created", "filled and never analyzed", "filled and analyzed"])
async def test_a_key_that_stays_taken_is_looked_up_in_few_steps(connection: asyncpg.Connection, state: str) -> None:
    """Also by the function that looks once more, whose plan nobody sees: what was read tells."""
    if state != "just created":
        await _fill(connection)
        # A key that comes again and again, each time after its window.
        await connection.execute(
            "INSERT INTO pgqrs_messages (queue_id, payload, dedup_key, archived_at) "
            "SELECT 1, '1', 'daily', now() - n * interval '1 day' FROM generate_series(1, 20000) n"
        )
    if state == "filled and analyzed":
        await connection.execute("ANALYZE")
    await connection.execute("UPDATE pgqrs_queues SET dedup_window = '1 hour'")
    # From the sixth time on the server has a plan for any arguments.
    for number in range(8):
        keys = [f"{number} a", f"{number} b", "key 24"]
        assert await _steps(connection, "enqueue_each", ["1"] * 3, [0.0] * 3, 1, [None] * 3, keys) <= 3
        assert await _steps(connection, "enqueue_key", "1", 0.0, 1, None, f"{number} c") <= 3
    assert await _steps(connection, "enqueue_key", "1", 0.0, 1, None, "daily") <= 3


async def _steps(connection: asyncpg.Connection, name: str, *arguments: object) -> int:
    """Send messages, and give how many others were looked at, all of them by an index."""
    # What this session has read so far, which may include what it did not tell the server yet.
    read = (
        "SELECT seq_scan, coalesce(idx_tup_fetch, 0) AS fetched FROM pg_stat_xact_user_tables "
        "WHERE relname = 'pgqrs_messages'"
    )
    async with connection.transaction():
        before = await connection.fetchrow(read)
        await connection.fetch(statements.statement(f"messages.{name}", "public"), 1, *arguments)
        after = await connection.fetchrow(read)
    assert before is not None
    assert after is not None
    assert after["seq_scan"] == before["seq_scan"]
    return int(after["fetched"] - before["fetched"])
