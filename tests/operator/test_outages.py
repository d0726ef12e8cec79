"""What is said, counted and left alone while a database is away, and what is read of heartbeats when it is there."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgqrs import fleet, lifecycle, queues, schema
from pgqrs.errors import DatabaseUnavailableError
from pgqrs.models import QueuePolicy
from pgqrs_operator import database_loop, outages, pace
from pgqrs_operator.fencing import FencedDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

    import pgqrs
    from tests.operator.conftest import Cluster

_FROZEN = {"pgqrs.io/paused-reconciliation": "true"}


class Outage:
    """A database that fails as long as it is told to, each time with another text."""

    def __init__(self) -> None:
        self.on = False
        self.failures = 0
        self.texts: Iterator[str] = itertools.cycle(["cannot be reached", "no answer in time"])

    def fail(self) -> None:
        """Raise what this time is to be raised.

        Raises:
            DatabaseUnavailableError: it is away.
        """
        if self.on:
            self.failures += 1
            raise DatabaseUnavailableError(next(self.texts))


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    made, observe, verify = Outage(), fleet.observe, schema.verify

    async def verified(*args: Any, **more: Any) -> Any:
        made.fail()
        return await verify(*args, **more)

    async def observed(*args: Any, **more: Any) -> Any:
        made.fail()
        return await observe(*args, **more)

    monkeypatch.setattr(schema, "verify", verified)
    monkeypatch.setattr(fleet, "observe", observed)
    monkeypatch.setattr(database_loop, "_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(pace, "IDLE_SECONDS", 0.05)
    return made


async def _more_failures(cluster: Cluster, outage: Outage) -> None:
    failures = outage.failures
    await cluster.eventually(lambda: outage.failures >= failures + 4)


def _message(cluster: Cluster, name: str) -> str:
    body = cluster.server.get("PgqrsQueue", name)
    assert body is not None
    return "".join(one["message"] for one in body["status"]["conditions"] if one["type"] == "Ready")


def _status_writes(cluster: Cluster) -> int:
    return sum(method == "PATCH" and path.endswith("/status") for method, path in cluster.server.requests)


async def test_an_outage_is_told_once_however_many_texts_it_has(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, outage: Outage
) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        for _ in range(2):
            await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
            outage.on = True
            await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "DatabaseUnavailable")
            said, writes = _message(cluster, "emails"), _status_writes(cluster)
            await _more_failures(cluster, outage)
            assert (_message(cluster, "emails"), _status_writes(cluster)) == (said, writes)
            outage.on = False
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
    assert server.reasons().count("DatabaseUnavailable") == 2
    assert (await queues.get(admin.database, "emails")).queue_name == "emails"


async def test_what_is_the_matter_for_long_is_told_in_the_end(cluster: Cluster, dsn: str, outage: Outage) -> None:
    cluster.server.put_secret(dsn)
    cluster.server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: cluster.server.reason("PgqrsQueue", "emails") == "InSync")
        outage.texts = itertools.chain(
            ["it shuts down", "it starts"], itertools.repeat("its certificate is not trusted")
        )
        outage.on = True
        await cluster.eventually(lambda: _message(cluster, "emails") == "it starts")
        await cluster.eventually(lambda: _message(cluster, "emails") == "its certificate is not trusted")


async def test_an_outage_makes_events_about_some_and_is_told_of_all(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "MOST_EVENTS", 3)
    names = [f"q{number}" for number in range(8)]
    server = cluster.server
    server.put_secret(dsn)
    for name in names:
        server.put("PgqrsQueue", name)
    async with cluster.operator():
        await cluster.eventually(lambda: {server.reason("PgqrsQueue", name) for name in names} == {"InSync"})
        outage.on = True
        await cluster.eventually(
            lambda: {server.reason("PgqrsQueue", name) for name in names} == {"DatabaseUnavailable"}
        )
        await _more_failures(cluster, outage)
        assert server.reasons().count("DatabaseUnavailable") == 3
    assert len(await queues.listing(admin.database)) == len(names)


async def test_what_is_frozen_says_so_whatever_is_wrong_with_its_database(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, outage: Outage
) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    server.put("PgqrsQueue", "homeless", namespace="elsewhere")
    worker = {"queueRef": {"name": "emails"}, "hostname": "h", "port": 1}
    server.put("PgqrsWorker", "w", spec=worker)
    server.put("PgqrsWorker", "lost", spec={**worker, "queueRef": {"name": "none"}})
    told = [("PgqrsQueue", "emails", "shop"), ("PgqrsQueue", "homeless", "elsewhere")]
    told += [("PgqrsWorker", "w", "shop"), ("PgqrsWorker", "lost", "shop")]

    def reasons() -> list[str]:
        return [server.reason(kind, name, namespace=namespace) for kind, name, namespace in told]

    async with cluster.operator():
        await cluster.eventually(lambda: reasons() == ["InSync", "SecretNotFound", "WaitingForWorker", "QueueNotFound"])
        outage.on = True
        away = "DatabaseUnavailable"
        await cluster.eventually(lambda: reasons() == [away, "SecretNotFound", away, "QueueNotFound"])
        for kind, name, namespace in told:
            server.change(kind, name, namespace=namespace, metadata={"annotations": _FROZEN})
        await cluster.eventually(lambda: set(reasons()) == {"PausedReconciliation"})
        # Whatever happens to it, a resource that is frozen stays as long as it is.
        server.delete("PgqrsWorker", "lost")
        await _more_failures(cluster, outage)
        assert server.get("PgqrsWorker", "lost") is not None
    assert (await queues.get(admin.database, "emails")).queue_name == "emails"


async def test_a_loop_whose_database_is_away_goes_on_for_the_probe(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, outage: Outage
) -> None:
    server, metrics = cluster.server, cluster.metrics
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    assert metrics.oldest_loop_at is None
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        outage.on = True
        await _more_failures(cluster, outage)
        before = metrics.oldest_loop_at
        assert before is not None
        await _more_failures(cluster, outage)
        after = metrics.oldest_loop_at
        assert after is not None
        assert after > before
        outage.on = False
        server.delete("PgqrsQueue", "emails")
        await cluster.eventually(lambda: metrics.oldest_loop_at is None)
    assert await queues.listing(admin.database) is not None


async def test_a_round_that_would_never_end_is_ended_and_the_next_one_goes_on(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe, hung = fleet.observe, asyncio.Event()

    async def hanging(*args: Any, **more: Any) -> fleet.Fleet:
        if not hung.is_set():
            hung.set()
            await asyncio.Event().wait()
        return await observe(*args, **more)

    monkeypatch.setattr(fleet, "observe", hanging)
    monkeypatch.setattr(database_loop, "_ROUND_SECONDS", 1.0)
    cluster.server.put_secret(dsn)
    cluster.server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: cluster.server.reason("PgqrsQueue", "emails") == "InSync")
        assert hung.is_set()
        failures = cluster.metrics.registry.get_sample_value(
            "pgqrs_operator_database_failures_total", {"database": admin.database.where}
        )
        assert failures == 1


async def test_all_statements_are_counted_those_between_rounds_too(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[FencedDatabase] = []

    def opening(*args: Any, **more: Any) -> FencedDatabase:
        opened.append(FencedDatabase(*args, **more))
        return opened[-1]

    monkeypatch.setattr(database_loop, "FencedDatabase", opening)
    assert not outage.on
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")

    def shown(name: str) -> dict[str, float]:
        return {
            " ".join(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(cluster.metrics.text().decode())
            for sample in family.samples
            if sample.name == f"pgqrs_operator_{name}"
        }

    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await cluster.eventually(lambda: "stopped_workers" in shown("reaped_total"))
        (database,) = opened
        await cluster.eventually(lambda: shown("database_round_trips_total")[""] == database.round_trips)
    assert (await queues.get(admin.database, "emails")).queue_name == "emails"


@pytest.mark.parametrize(
    ("age", "silent", "stale"), [(0, False, False), (19, False, False), (21, False, True), (41, True, True)]
)
async def test_a_heartbeat_is_stale_after_half_of_the_timeout_and_silent_after_all_of_it(
    admin: pgqrs.Admin, connection: asyncpg.Connection, age: int, *, silent: bool, stale: bool
) -> None:
    await queues.create(admin.database, "emails", QueuePolicy())
    await connection.execute("UPDATE pgqrs_queues SET heartbeat_timeout = interval '40 seconds'")
    await lifecycle.register(admin.database, "emails", hostname="h", port=1)
    async with connection.transaction():
        await connection.execute("UPDATE pgqrs_workers SET heartbeat_at = now() - make_interval(secs => $1)", age)
    (found,) = (await fleet.observe(admin.database, queues=["emails"])).workers
    assert (found.silent, found.stale) == (silent, stale)
