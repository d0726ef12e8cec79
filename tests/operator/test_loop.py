"""One database's loop: drains and their time, counts, what is refused, what is reaped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pgqrs import fleet, lifecycle, queues
from pgqrs.fleet import QueueDeclaration
from pgqrs.models import QueuePolicy, QueueRetention
from pgqrs_operator import counting
from pgqrs_operator.actions import carry_out
from pgqrs_operator.counting import Counts
from pgqrs_operator.facts import DeclareQueue, InterruptWorker, Key, StopWorker
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.reaper import Reaper
from tests.operator.world import World, dequeued, leased, queue

if TYPE_CHECKING:
    import pgqrs
    from pgqrs.database import Database
    from tests.operator.conftest import Cluster


async def test_the_time_of_a_drain_counts_from_its_own_beginning(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin
) -> None:
    """Not from that of a suspension or an outage before it: its handlers have their time, whatever was before."""
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    spec = {"queueRef": {"name": "emails"}, "hostname": "h", "port": 1, "drainTimeout": "1h"}
    server.put("PgqrsWorker", "w", spec=spec)
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        row = await lifecycle.register(admin.database, "emails", hostname="h", port=1)
        await leased(World(admin.database), row)
        server.change("PgqrsWorker", "w", spec={"state": "Suspended"}, metadata={"generation": 2})
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "Draining")
        _age(server.get("PgqrsWorker", "w"), timedelta(hours=2))
        server.change("PgqrsWorker", "w", spec={"state": "Stopped"}, metadata={"generation": 3})
        await cluster.eventually(lambda: _drain(cluster) is not None)
        drain = _drain(cluster)
        assert drain["generation"] == 3  # type: ignore[index]
        assert await lifecycle.leased(admin.database, row.id) == 1

        # An outage in the middle of it takes nothing off its time.
        server.change("PgqrsWorker", "w", status={"conditions": []})
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "Draining")
        assert _drain(cluster) == drain

        since = datetime.now(UTC) - timedelta(hours=2)
        server.change("PgqrsWorker", "w", status={"drain": {"since": since.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}})
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "Stopped")
        assert _drain(cluster) is None
    assert await lifecycle.leased(admin.database, row.id) == 0


def _drain(cluster: Cluster) -> dict[str, Any] | None:
    return cluster.server.get("PgqrsWorker", "w")["status"].get("drain")  # type: ignore[index, no-any-return]


def _age(body: dict[str, Any] | None, age: timedelta) -> None:
    """Make all conditions look older."""
    assert body is not None
    for condition in body["status"]["conditions"]:
        condition["lastTransitionTime"] = (datetime.now(UTC) - age).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_queue_is_counted_when_it_is_new_and_all_are_every_now_and_then(
    admin: pgqrs.Admin, asked: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    await queues.create(admin.database, "a")
    await queues.create(admin.database, "b")
    counts = Counts(admin.database)
    assert await counts.refresh(["a"])
    assert not await counts.refresh(["a"])
    # One that lost its row, or that nobody can count, is not asked for again before the others.
    assert not await counts.refresh(["a", "b", "gone"])
    assert not await counts.refresh(["a", "b", "gone"])
    assert asked == [{"a"}, {"b", "gone"}]
    assert (counts.of("a"), counts.of("b"), counts.of("gone")) == (fleet.FleetCounts(), fleet.FleetCounts(), None)
    monkeypatch.setattr(counting, "_INTERVAL_SECONDS", 0.0)
    assert await counts.refresh(["b"])
    assert asked[-1] == {"b"}
    assert counts.of("a") is None


async def test_a_queue_without_a_row_makes_nobody_be_counted_all_the_time(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[None] = []
    asked: list[set[str]] = []
    count, observe = fleet.counts, fleet.observe

    async def counted(db: Database, names: Any) -> Any:
        asked.append(set(names))
        return await count(db, names)

    async def observed(*args: Any, **more: Any) -> Any:
        rounds.append(None)
        return await observe(*args, **more)

    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    server.put("PgqrsQueue", "wrong", spec={"leaseDuration": "100h"})
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "wrong") == "InvalidSpec")
        monkeypatch.setattr("pgqrs.fleet.counts", counted)
        monkeypatch.setattr("pgqrs.fleet.observe", observed)
        for value in (True, False, True):
            rounds.clear()
            server.change("PgqrsQueue", "wrong", spec={"paused": value})
            await cluster.eventually(lambda: rounds)
        assert not asked
        assert [one.queue_name for one in await queues.listing(admin.database)] == ["emails"]
        # Once it has one, it is counted at once.
        server.change("PgqrsQueue", "wrong", spec={"leaseDuration": "30s"}, metadata={"generation": 2})
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "wrong") == "InSync")
    assert asked == [{"wrong"}]


async def test_a_row_that_was_kept_is_not_said_to_be_written(world: World) -> None:
    await queues.create(world.db, "emails")
    taken = QueueDeclaration(name="emails", policy=QueuePolicy(), owner="east/shop/emails")
    assert (await fleet.declare(world.db, [taken])).keys() == {"emails"}
    ours = QueueDeclaration(name="emails", policy=QueuePolicy(paused=True), owner="shop/emails")
    fresh = QueueDeclaration(name="new", policy=QueuePolicy(), owner="shop/new")
    assert await fleet.declare(world.db, [ours, fresh]) == {"new": (await world.row("new")).id}
    metrics = Metrics()
    outcome = await carry_out(world.db, [DeclareQueue(Key("shop", "emails"), ours, "Updated")], metrics)
    assert not outcome.declared
    assert b'cause="Updated"' not in metrics.text()
    assert (await world.row()).owner == "east/shop/emails"


async def test_what_one_row_is_refused_holds_up_no_other(world: World) -> None:
    """Also where it is one of many, and whatever comes after it."""
    world.queues = tuple(queue(f"q{number}") for number in range(30))
    async with world.db.transaction() as transaction:
        await transaction.execute(
            "ALTER TABLE pgqrs_queues ADD CONSTRAINT no_q7 CHECK (queue_name <> 'q7');"
            "ALTER TABLE pgqrs_workers ADD CONSTRAINT no_h1 CHECK (status <> 'interrupted' OR hostname <> 'h1')"
        )
    outcome = await carry_out(world.db, (await world.plan()).actions, Metrics())
    assert {key.name: verdict.reason for key, verdict in outcome.queues.items()} == {"q7": "DatabaseRefused"}
    assert "no_q7" in outcome.queues[Key("shop", "q7")].message
    assert len(outcome.declared) == len(await queues.listing(world.db)) == 29

    rows = [await lifecycle.register(world.db, "q1", hostname=f"h{number}", port=1) for number in range(3)]
    dead = await lifecycle.register(world.db, "q1", hostname="dead", port=1)
    outcome = await carry_out(
        world.db, [*(InterruptWorker(row.id, "o") for row in rows), StopWorker(dead.id, "dead")], Metrics()
    )
    assert list(outcome.workers) == [rows[1].id]
    statuses = [await lifecycle.status(world.db, row.id) for row in (*rows, dead)]
    assert statuses == ["interrupted", "ready", "interrupted", "stopped"]


async def test_where_all_is_refused_it_is_not_asked_for_each(world: World) -> None:
    world.queues = tuple(queue(f"q{number}") for number in range(200))
    async with world.db.transaction() as transaction:
        await transaction.execute("ALTER TABLE pgqrs_queues ADD CONSTRAINT nothing CHECK (false)")
    calls = 0
    declare = fleet.declare

    async def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return await declare(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgqrs.fleet.declare", counted)
        outcome = await carry_out(world.db, (await world.plan()).actions, Metrics())
    assert len(outcome.queues) == 200
    assert calls < 100


async def test_a_refused_row_is_told_to_its_resource_alone(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    async with admin.database.transaction() as transaction:
        await transaction.execute("ALTER TABLE pgqrs_queues ADD CONSTRAINT no_a CHECK (queue_name <> 'a')")
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "a")
    server.put("PgqrsQueue", "b")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "b") == "InSync")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "a") == "DatabaseRefused")


async def test_a_resource_that_cannot_be_read_is_its_own_matter(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    """A status that no operator of ours wrote."""
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    server.put("PgqrsQueue", "letters")
    spec = {"queueRef": {"name": "emails"}, "hostname": "h", "port": 1}
    server.put("PgqrsWorker", "emails", spec=spec, status={"drain": {"generation": 1, "since": "soon"}})
    async with cluster.operator():
        await cluster.eventually(lambda: "InternalError" in server.reasons())
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "letters") == "InSync")
    assert len(await queues.listing(admin.database)) == 2


async def _aged(world: World, table: str, column: str) -> None:
    """Make everything that is over look older."""
    async with world.db.transaction() as transaction:
        await transaction.execute(f"UPDATE {table} SET {column} = now() - interval '2 days' WHERE {column} IS NOT NULL")


async def _sent(world: World, name: str, count: int) -> None:
    async with world.db.transaction() as transaction:
        await transaction.execute(
            "INSERT INTO pgqrs_messages (queue_id, payload) "
            f"SELECT id, '{{}}' FROM pgqrs_queues, generate_series(1, {count}) WHERE queue_name = '{name}'"
        )


async def test_the_reaper_clears_away_what_declared_queues_keep_no_longer(world: World) -> None:
    day = timedelta(days=1)
    kept = QueueRetention(archived=day, dead=day, workers=day)
    for name in ("emails", "others"):
        await queues.create(world.db, name, QueuePolicy(read_limit=1), kept)
    for name in ("emails", "others"):
        row = await lifecycle.register(world.db, name, hostname=name)
        await _sent(world, name, 3)
        archived, dead, exhausted = [(await dequeued(world, row.id))[0] for _ in range(3)]
        await world.db.fetch("messages.archive", row.id, [archived])
        await world.db.fetch("messages.dead_letter", row.id, [dead], "x")
        await lifecycle.stop(world.db, [row.id], reason="over")
        assert exhausted
    await _aged(world, "pgqrs_messages", "archived_at")
    await _aged(world, "pgqrs_workers", "shutdown_at")
    metrics = Metrics()
    reaper = Reaper(world.db, metrics)
    assert not any((await reaper.once()).values())
    reaper.serve(["emails"])
    expected = {"exhausted_messages": 1, "archived_messages": 1, "dead_letters": 1, "stopped_workers": 1}
    assert await reaper.once() == expected
    assert b'pgqrs_operator_reaped_total{kind="dead_letters"} 1.0' in metrics.text()
    counts = await queues.all_counts(world.db)
    assert (counts["others"].archived, counts["others"].dead, counts["others"].ready) == (1, 1, 1)
    assert (counts["emails"].archived, counts["emails"].dead, counts["emails"].ready) == (0, 1, 0)
    assert not any((await reaper.once()).values())


async def test_a_pass_of_the_reaper_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqrs.reaping._BATCH", 2)
    monkeypatch.setattr("pgqrs.reaping._PASS_BATCHES", 3)
    await queues.create(world.db, "emails", retention=QueueRetention(archived=timedelta()))
    await _sent(world, "emails", 10)
    async with world.db.transaction() as transaction:
        await transaction.execute("UPDATE pgqrs_messages SET archived_at = now() - interval '1 day'")
    reaper = Reaper(world.db, Metrics())
    reaper.serve(["emails"])
    assert [(await reaper.once())["archived_messages"] for _ in range(3)] == [6, 4, 0]


async def test_the_operator_reaps(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails", spec={"retention": {"archivedMessages": "0s", "stoppedWorkers": "30d"}})
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await cluster.eventually(lambda: b'reaped_total{kind="archived_messages"}' in cluster.metrics.text())
    assert (await queues.get(admin.database, "emails")).retention == QueueRetention(
        archived=timedelta(), workers=timedelta(days=30)
    )


async def test_retention_follows_its_declaration_and_is_left_alone_without_one(world: World) -> None:
    by_hand = QueueRetention(archived=timedelta(days=3))
    await queues.create(world.db, "emails", retention=by_hand)
    await world.converge()
    assert (await world.row()).retention == by_hand
    declared = QueueRetention(dead=timedelta(days=90))
    world.queues = (queue(retention=declared), queue("new", retention=declared))
    await world.converge()
    assert (await world.row()).retention == (await world.row("new")).retention == declared
    world.queues = (queue(retention=declared, settled=True),)
    await queues.set_retention(world.db, "emails", by_hand)
    assert [action.cause for action in (await world.plan()).actions] == ["DriftRepaired"]  # type: ignore[union-attr]
    await world.converge()
    assert (await world.row()).retention == declared
