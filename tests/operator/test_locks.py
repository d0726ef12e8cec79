"""What somebody else has locked, for however long, holds up nothing else; and no statement is large."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from pgqrs import fleet, lifecycle, queues
from pgqrs.database import Database
from pgqrs.fleet import QueueDeclaration
from pgqrs.models import QueuePolicy, WorkerStatus
from pgqrs_operator import actions
from pgqrs_operator.actions import carry_out
from pgqrs_operator.facts import DisownQueue, InterruptWorker, Key, ResumeWorker, StopWorker, SuspendWorker
from pgqrs_operator.metrics import Metrics
from tests.operator.world import World, queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pgqrs


@pytest.fixture
async def world(dsn: str, admin: pgqrs.Admin) -> AsyncIterator[World]:
    """A world whose statements give up soon."""
    assert admin.database.dsn == dsn
    async with Database(dsn, timeout=2.0) as database:
        yield World(database, queues=(queue("a"), queue("b")))


@asynccontextmanager
async def _locked(dsn: str, table: str, row: int) -> AsyncIterator[None]:
    """Let somebody change a row and go for lunch."""
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SELECT FROM {table} WHERE id = {row} FOR UPDATE")
        yield
    finally:
        await transaction.rollback()
        await connection.close()


async def test_a_queue_that_somebody_has_locked_holds_up_no_other(world: World, dsn: str) -> None:
    await world.converge()
    world.queues = tuple(queue(name, policy=QueuePolicy(paused=True)) for name in ("a", "b"))
    async with _locked(dsn, "pgqrs_queues", (await world.row("a")).id):
        outcome = await carry_out(world.db, (await world.plan()).actions, Metrics())
        assert outcome.declared.keys() == {Key("shop", "b")}
        given_up = [DisownQueue(Key("shop", name), name, f"shop/{name}") for name in ("a", "b")]
        await carry_out(world.db, given_up, Metrics())
    assert [(await world.row(name)).policy.paused for name in ("a", "b")] == [False, True]
    assert [(await world.row(name)).owner for name in ("a", "b")] == ["shop/a", None]
    await world.converge()
    assert (await world.row("a")).policy.paused


def _stop(only_if: str) -> Callable[[Any], StopWorker]:
    return lambda worker_id: StopWorker(worker_id, "x", only_if)


@pytest.mark.parametrize(
    ("before", "action", "after"),
    [
        pytest.param("ready", lambda one: InterruptWorker(one, "o"), "interrupted", id="interrupt"),
        pytest.param("interrupted", SuspendWorker, "suspended", id="suspend"),
        pytest.param("suspended", ResumeWorker, "ready", id="resume"),
        pytest.param("ready", _stop(""), "stopped", id="stop"),
        pytest.param("ready", _stop("silent"), "stopped", id="stop the silent"),
        pytest.param("suspended", _stop("idle"), "stopped", id="stop the idle"),
    ],
)
async def test_a_worker_that_somebody_has_locked_holds_up_no_other(
    world: World, dsn: str, before: str, action: Callable[[Any], Any], after: str
) -> None:
    """Such as a client whose node died in a transaction: its locks stay until the server notices."""
    await world.converge()
    workers = [await lifecycle.register(world.db, "a", hostname=f"h{number}", port=1) for number in range(3)]
    async with world.db.transaction() as transaction:
        await transaction.execute(
            f"UPDATE pgqrs_workers SET status = '{before}', heartbeat_at = now() - interval '1 hour'"
        )
    async with _locked(dsn, "pgqrs_workers", workers[1].id):
        await carry_out(world.db, [action(worker.id) for worker in workers], Metrics())
        assert [await lifecycle.status(world.db, worker.id) for worker in workers] == [after, before, after]
    await carry_out(world.db, [action(worker.id) for worker in workers], Metrics())
    assert {await lifecycle.status(world.db, worker.id) for worker in workers} == {after}


async def test_who_was_stopped_before_is_not_counted_again(world: World) -> None:
    await world.converge()
    worker = await lifecycle.register(world.db, "a", hostname="h", port=1)
    metrics = Metrics()
    for _ in range(2):
        await carry_out(world.db, [StopWorker(worker.id, "x")], metrics)
    assert b'pgqrs_operator_workers_stopped_total{cause="declared"} 1.0' in metrics.text()


async def test_many_that_create_the_same_queues_in_any_order_do_not_block_each_other(world: World) -> None:
    declarations = [QueueDeclaration(name=f"q{number}", policy=QueuePolicy(), owner="a") for number in range(500)]
    for _ in range(10):
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(fleet.declare(world.db, declarations[:: 1 if number % 2 else -1]))
        async with world.db.transaction() as transaction:
            await transaction.execute("DELETE FROM pgqrs_queues")


async def test_many_are_done_in_batches_and_the_dead_come_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_BATCH", 3)
    monkeypatch.setattr(actions, "_STOP_BATCH", 2)
    calls: list[tuple[str, int]] = []
    stop, declare = fleet.stop, fleet.declare

    async def stopped(db: Database, ids: Any, **more: Any) -> Any:
        calls.append(("stop", len(ids)))
        return await stop(db, ids, **more)

    async def declared(db: Database, declarations: Any) -> Any:
        calls.append(("declare", len(declarations)))
        return await declare(db, declarations)

    monkeypatch.setattr("pgqrs.fleet.stop", stopped)
    monkeypatch.setattr("pgqrs.fleet.declare", declared)
    await queues.create(world.db, "x")
    workers = [await lifecycle.register(world.db, "x", hostname=f"h{number}", port=1) for number in range(5)]
    world.queues = tuple(queue(f"q{number}") for number in range(4))
    planned = (*(await world.plan()).actions, *(StopWorker(worker.id, "x") for worker in workers))
    outcome = await carry_out(world.db, planned, Metrics())
    assert calls == [("stop", 2), ("stop", 2), ("stop", 1), ("declare", 3), ("declare", 1)]
    assert len(outcome.declared) == 4
    assert {await lifecycle.status(world.db, worker.id) for worker in workers} == {WorkerStatus.STOPPED}


async def test_removals_take_a_part_of_a_round_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long history is removed piece by piece, and dead workers do not wait for the end of that."""
    await world.converge()
    worker = await lifecycle.register(world.db, "a", hostname="h", port=1)
    world.queues = tuple(queue(name, deleting=True, delete_data=True) for name in ("a", "b"))
    begun: list[str] = []
    delete = queues.delete

    async def slow(*args: Any, **_: Any) -> None:
        begun.append(args[1])
        await asyncio.Event().wait()

    monkeypatch.setattr(actions, "_DELETIONS_SECONDS", 0.1)
    monkeypatch.setattr("pgqrs.queues.delete", slow)
    outcome = await carry_out(world.db, [*(await world.plan()).actions, StopWorker(worker.id, "x")], Metrics())
    assert len(begun) == 1
    assert {verdict.reason for verdict in outcome.queues.values()} == {"Deleting"}
    assert set(outcome.queues) == {Key("shop", "a"), Key("shop", "b")}
    assert await lifecycle.status(world.db, worker.id) is WorkerStatus.STOPPED
    monkeypatch.setattr("pgqrs.queues.delete", delete)
    monkeypatch.setattr(actions, "_DELETIONS_SECONDS", 10.0)
    outcome = await carry_out(world.db, (await world.plan()).actions, Metrics())
    assert outcome.complete
    assert not await queues.listing(world.db)
