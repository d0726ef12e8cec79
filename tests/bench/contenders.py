"""Who takes part, and with which settings: each at its default and at its best documented one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to use a contender."""

    name: str
    values: dict[str, Any]
    #: What is different, for the table.
    text: str
    #: About how many messages one process works off in a second, for the size of its backlog.
    rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A queue, or what stands in for one."""

    name: str
    title: str
    #: The module of `tests.bench.peers`, and the environment it needs.
    module: str
    environment: str
    settings: tuple[Setting, ...]
    #: Empties the queue, and counts what is not completed.
    clear: str
    left: str
    #: Whether its settings are those of its workers, and all of them send alike.
    sends_alike: bool = False
    #: Whether it stands for what the database can do instead of for a queue.
    bare: bool = False


_PGQRS_CLEAR = "TRUNCATE pgqrs_messages CASCADE"
_PGQRS_LEFT = "SELECT count(*) FROM pgqrs_messages WHERE archived_at IS NULL"

OURS = Contender(
    name="pgqrs",
    title="pgqrs (ours)",
    module="ours",
    environment="pgqrs",
    settings=(
        Setting("default", {"loop": "asyncio", "concurrency": 10}, "asyncio, concurrency 10", 20_000),
        Setting("best", {"loop": "uvloop", "concurrency": 50}, "uvloop, concurrency 50", 25_000),
    ),
    clear=_PGQRS_CLEAR,
    left=_PGQRS_LEFT,
)
BARE_OURS = Contender(
    name="bare-ours",
    title="bare asyncpg, our tables",
    module="bare",
    environment="pgqrs",
    settings=tuple(
        Setting(name, {"loop": loop, "tables": "ours", "work": "loop"}, f"{loop}; prefetch 500, 50 handlers", 30_000)
        for name, loop in (("default", "asyncio"), ("best", "uvloop"))
    ),
    clear=_PGQRS_CLEAR,
    left=_PGQRS_LEFT,
    bare=True,
)
BARE_UNTOUCHED = Contender(
    name="bare-untouched",
    title="bare asyncpg, untouched 0.15.3 tables",
    module="bare",
    environment="pgqrs",
    settings=tuple(
        Setting(
            name, {"loop": loop, "tables": "untouched", "work": "two statements"}, f"{loop}; batches of 100", 28_000
        )
        for name, loop in (("default", "asyncio"), ("best", "uvloop"))
    ),
    clear=_PGQRS_CLEAR,
    left=_PGQRS_LEFT,
    bare=True,
)
UPSTREAM = Contender(
    name="upstream",
    title="upstream pgqrs 0.15.3",
    module="upstream",
    environment="upstream",
    settings=(
        Setting("default", {"batch": 1, "poll_ms": 50}, "one by one, polls every 50 ms", 700),
        Setting("best", {"batch": 100, "poll_ms": 5}, "dequeue and archive_many by 100, 5 ms between polls", 10_000),
    ),
    clear=_PGQRS_CLEAR,
    left=_PGQRS_LEFT,
    sends_alike=True,
)
PGQUEUER = Contender(
    name="pgqueuer",
    title="pgqueuer 1.6.0",
    module="pgqueuer",
    environment="pgqueuer",
    settings=(
        Setting(
            "default",
            {"loop": "asyncio", "batch": 10, "durability": "durable", "autovacuum": False},
            "batch 10, asyncio",
            4_000,
        ),
        Setting(
            "best",
            {"loop": "uvloop", "batch": 100, "durability": "balanced", "autovacuum": True},
            "batch 100, autovac, log unlogged (balanced), uvloop",
            14_000,
        ),
    ),
    clear="TRUNCATE pgqueuer, pgqueuer_log",
    left="SELECT count(*) FROM pgqueuer",
)
PROCRASTINATE = Contender(
    name="procrastinate",
    title="procrastinate 3.10.0",
    module="procrastinate",
    environment="procrastinate",
    settings=(
        Setting("default", {"pool": {}, "worker": {}}, "concurrency 1, pool of 4", 450),
        Setting(
            "best",
            {"pool": {"max_size": 12}, "worker": {"concurrency": 10, "delete_jobs": "successful"}},
            "concurrency 10, successful jobs deleted, pool of 12",
            700,
        ),
    ),
    clear="TRUNCATE procrastinate_jobs CASCADE",
    left="SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')",
)

CONTENDERS = (OURS, BARE_OURS, BARE_UNTOUCHED, UPSTREAM, PGQUEUER, PROCRASTINATE)
PEERS = tuple(contender.name for contender in (UPSTREAM, PGQUEUER, PROCRASTINATE))
