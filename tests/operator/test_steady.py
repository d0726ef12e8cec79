"""Rounds that meet what the one before met: nothing is planned again, and whatever differs is seen all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgqrs import fleet, lifecycle, queues
from pgqrs.models import PodIdentity, QueuePolicy
from pgqrs_operator import counting, database_loop, pace, verdicts
from pgqrs_operator.assignment import Assignment
from pgqrs_operator.facts import Concerned, Desired, InterruptWorker, Key, Plan
from pgqrs_operator.plan import plan
from pgqrs_operator.settings import Settings
from pgqrs_operator.state import State

if TYPE_CHECKING:
    import asyncpg

    import pgqrs
    from pgqrs.database import Database
    from pgqrs.fleet import Fleet
    from pgqrs_operator.facts import Observed
    from pgqrs_operator.verdicts import Verdict
    from tests.operator.conftest import Cluster

KEY = Key("shop", "emails")
READY = verdicts.ready("InSync", "It is as declared.")


class Rounds:
    """How often one database's rows were looked at, and how often a plan was made of them."""

    def __init__(self) -> None:
        self.looks = 0
        self.plans = 0


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Rounds:
    counted, observe = Rounds(), fleet.observe

    async def observed(db: Database, **names: object) -> Fleet:
        counted.looks += 1
        return await observe(db, **names)  # type: ignore[arg-type]

    def planned(desired: Desired, facts: Observed) -> Plan:
        counted.plans += 1
        return plan(desired, facts)

    monkeypatch.setattr(fleet, "observe", observed)
    monkeypatch.setattr(database_loop, "plan", planned)
    monkeypatch.setattr(database_loop, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(pace, "IDLE_SECONDS", 0.05)
    return counted


async def _three_looks(cluster: Cluster, rounds: Rounds) -> int:
    """Wait for three more looks; give how many plans were made meanwhile."""
    looks, plans = rounds.looks, rounds.plans
    await cluster.eventually(lambda: rounds.looks >= looks + 3)
    return rounds.plans - plans


async def test_what_did_not_change_is_not_planned_again(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, connection: asyncpg.Connection, rounds: Rounds
) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails", spec={"maxReads": 7})
    server.put("PgqrsWorker", "w", spec={"queueRef": {"name": "emails"}, "hostname": "h", "port": 1})
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        # That a process has not registered may last for ever, and is seen when it ends.
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "WaitingForWorker")
        await lifecycle.register(admin.database, "emails", hostname="h", port=1)
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "Working")
        await _three_looks(cluster, rounds)

        # Heartbeats are no news.
        await connection.execute("UPDATE pgqrs_workers SET heartbeat_at = now() + interval '1 second'")
        assert await _three_looks(cluster, rounds) == 0

        for change in (
            "UPDATE pgqrs_queues SET read_limit = 99",
            "UPDATE pgqrs_queues SET owner = NULL, read_limit = 9",
        ):
            await connection.execute(change)
            await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync" and rounds.plans)
            await _three_looks(cluster, rounds)
            assert (await queues.get(admin.database, "emails")).policy.read_limit == 7

        await connection.execute("UPDATE pgqrs_workers SET heartbeat_at = now() - interval '1 hour'")
        await cluster.eventually(lambda: server.reason("PgqrsWorker", "w") == "WaitingForWorker")


@pytest.mark.parametrize("refused", ["/pgqrsqueues/bills", "/pgqrsqueues/bills/status"])
async def test_a_write_that_failed_is_tried_again_by_the_next_round(
    cluster: Cluster, dsn: str, rounds: Rounds, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(counting, "_INTERVAL_SECONDS", 3600.0)
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await _three_looks(cluster, rounds)
        server.refusals[refused] = 500
        server.put("PgqrsQueue", "bills", metadata={"finalizers": []})
        await cluster.eventually(lambda: any(path.endswith(refused) for _, path in server.requests))
        await _three_looks(cluster, rounds)
        del server.refusals[refused]
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "bills") == "InSync")


async def test_the_end_of_a_pod_that_is_not_of_these_queues_is_seen_at_once(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its label names no queue here, but it has a worker in one: nobody tells this database's loop that it is gone."""
    monkeypatch.setattr(counting, "_INTERVAL_SECONDS", 3600.0)
    cluster.settings = Settings(cluster="c1")
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails", spec={"heartbeatTimeout": "1h"})
    uid = server.put_pod("web-1", queue="elsewhere")["metadata"]["uid"]
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        pod = PodIdentity(uid=uid, name="web-1", namespace="shop", cluster="c1")
        row = await lifecycle.register(admin.database, "emails", hostname="web-1.shop", pod=pod)
        await _three_looks(cluster, rounds)
        del server.objects["pods", "shop", "web-1"]
        await cluster.eventually(lambda: _stopped(cluster))
        assert (await lifecycle.get(admin.database, row.id)).status == "stopped"


def _stopped(cluster: Cluster) -> float | None:
    return cluster.metrics.registry.get_sample_value("pgqrs_operator_workers_stopped_total", {"cause": "pod_deleted"})


async def test_the_same_rows_are_the_same_value(admin: pgqrs.Admin, connection: asyncpg.Connection) -> None:
    await queues.create(admin.database, "emails", QueuePolicy())
    await lifecycle.register(admin.database, "emails", hostname="h", port=1)

    async def look(before: Fleet | None) -> Fleet:
        return await fleet.observe(admin.database, queues=["emails"], before=before)

    first = await look(None)
    assert first.workers[0].info.heartbeat_at is None
    await connection.execute("UPDATE pgqrs_workers SET heartbeat_at = now()")
    assert await look(first) is first
    await connection.execute("UPDATE pgqrs_workers SET heartbeat_at = now() - interval '1 hour'")
    late = await look(first)
    assert late is not first
    assert late.workers[0].silent
    assert late.workers[0].info.heartbeat_at is not None
    for change in ("UPDATE pgqrs_queues SET owner = 'x'", "UPDATE pgqrs_workers SET terminating = true"):
        before = await look(late)
        await connection.execute(change)
        assert await look(before) is not before


@pytest.mark.parametrize(
    ("verdict", "lasts"),
    [
        (READY, True),
        (verdicts.stalled("InvalidSpec", "Mend it."), True),
        (verdicts.waiting("WaitingForWorker", "Nobody has registered."), True),
        (verdicts.waiting("Draining", "Its time runs out."), False),
        (verdicts.stalled("Conflict", "Another one, perhaps in another database, may go away."), False),
    ],
)
def test_what_time_or_others_may_change_does_not_last(verdict: Verdict, *, lasts: bool) -> None:
    assert _state(Plan(actions=(), queues={KEY: verdict}, workers={})).lasts() is lasts
    assert _state(Plan(actions=(), queues={KEY: READY}, workers={KEY: verdict})).lasts() is lasts


def test_what_is_left_to_do_does_not_last() -> None:
    told = {KEY: READY}
    assert not _state(Plan(actions=(InterruptWorker(1, "shop/w"),), queues=told, workers={})).lasts()  # type: ignore[arg-type]
    defects = {Concerned("queue", KEY): ValueError()}
    assert not _state(Plan(actions=(), queues=told, workers={}, defects=defects)).lasts()
    assert not _state(Plan(actions=(), queues=told, workers={}), steady=False).lasts()


def _state(planned: Plan, *, steady: bool = True) -> State:
    return State(
        assignment=Assignment(queues=(), workers=(), pods=()),
        queues=(),
        workers=(),
        desired=Desired(queues=(), workers=()),
        found=fleet.Fleet(queues={}, workers=()),
        planned=planned,
        steady=steady,
    )
