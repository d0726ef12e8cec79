"""The planner and its actions on a real database: whatever was declared comes true, and then nothing is left to do."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pgqrs
from pgqrs import lifecycle, pods, queues
from pgqrs.models import QueuePolicy, WorkerStatus
from pgqrs_operator.actions import carry_out
from pgqrs_operator.facts import Key
from pgqrs_operator.metrics import Metrics
from tests.operator.world import POD, WORKER, World, dequeued, leased, queue


async def test_a_queue_appears_follows_and_is_set_right(world: World) -> None:
    assert [action.cause for action in (await world.plan()).actions] == ["Created"]  # type: ignore[union-attr]
    verdict = (await world.converge()).queues[Key("shop", "emails")]
    assert (verdict.kind, verdict.reason) == ("ready", "InSync")
    assert (await world.row()).owner == "shop/emails"

    policy = QueuePolicy(paused=True, lease_duration=timedelta(minutes=2), read_limit=9)
    world.queues = (queue(policy=policy),)
    await world.converge()
    assert (await world.row()).policy == policy

    world.queues = (queue(policy=policy, settled=True),)
    await queues.set_policy(world.db, "emails", QueuePolicy())
    assert [action.cause for action in (await world.plan()).actions] == ["DriftRepaired"]  # type: ignore[union-attr]
    await world.converge()
    assert (await world.row()).policy == policy

    await queues.delete(world.db, "emails")
    assert [action.cause for action in (await world.plan()).actions] == ["Recreated"]  # type: ignore[union-attr]
    await world.converge()
    assert (await world.row()).policy == policy


async def test_a_row_that_is_there_is_adopted_with_what_it_holds(world: World) -> None:
    created = await queues.create(world.db, "emails")
    assert [action.cause for action in (await world.plan()).actions] == ["Adopted"]  # type: ignore[union-attr]
    await world.converge()
    assert (await world.row()).id == created.id


async def test_of_two_resources_the_older_one_counts(world: World) -> None:
    younger = queue(key=Key("web", "mails"), owner="web/mails", age=("2", "x"), policy=QueuePolicy(paused=True))
    world.queues = (younger, queue())
    verdict = (await world.converge()).queues[younger.key]
    assert (verdict.kind, verdict.reason) == ("stalled", "Conflict")
    assert "shop/emails" in verdict.message
    assert (await world.row()).owner == "shop/emails"


async def test_a_row_of_another_cluster_is_left_alone(world: World) -> None:
    await world.converge()
    world.queues = (queue(owner="east/shop/emails", policy=QueuePolicy(paused=True)),)
    world.others = frozenset({"shop/emails"})
    verdict = (await world.converge()).queues[Key("shop", "emails")]
    assert verdict.reason == "Conflict"
    assert not (await world.row()).policy.paused


async def test_a_specification_that_is_not_allowed_changes_nothing(world: World) -> None:
    await world.converge()
    world.queues = (queue(policy=None, problem="spec.leaseDuration is 0s; allowed are 1s to 12h."),)
    verdict = (await world.converge()).queues[Key("shop", "emails")]
    assert (verdict.kind, verdict.reason) == ("stalled", "InvalidSpec")
    assert "leaseDuration" in verdict.message
    assert (await world.row()).policy == QueuePolicy()


async def test_deleted_with_retain_the_row_stays_and_belongs_to_nobody(world: World) -> None:
    await world.converge()
    world.queues = (queue(deleting=True),)
    assert Key("shop", "emails") in (await world.converge()).done_queues
    assert (await world.row()).owner is None


async def test_deleted_with_delete_it_waits_for_the_last_message(world: World) -> None:
    await world.converge()
    worker = await world.worker()
    message = await leased(world, worker)
    world.queues = (queue(deleting=True, delete_data=True),)
    planned = await world.converge()
    assert not planned.done_queues
    assert planned.queues[Key("shop", "emails")].reason == "WaitingForMessages"
    assert "1 live message" in planned.queues[Key("shop", "emails")].message

    await world.db.fetch("messages.archive", worker.id, [message])
    assert Key("shop", "emails") in (await world.converge()).done_queues
    with pytest.raises(pgqrs.QueueNotFoundError):
        await world.row()


async def test_suspended_finishes_what_it_holds_and_is_resumed(world: World) -> None:
    await world.converge()
    worker = await world.worker()
    message = await leased(world, worker)
    world.workers = (replace(WORKER, state="Suspended"),)
    assert (await world.converge()).workers[WORKER.key].reason == "Draining"
    assert await lifecycle.status(world.db, worker.id) is WorkerStatus.INTERRUPTED

    await world.db.fetch("messages.archive", worker.id, [message])
    assert (await world.converge()).workers[WORKER.key].reason == "Suspended"
    assert await lifecycle.status(world.db, worker.id) is WorkerStatus.SUSPENDED

    world.workers = (WORKER,)
    assert (await world.converge()).workers[WORKER.key].reason == "Working"
    assert await lifecycle.status(world.db, worker.id) is WorkerStatus.READY


async def test_a_worker_that_paused_itself_is_resumed_only_when_asked(world: World) -> None:
    await world.converge()
    worker = await world.worker()
    await lifecycle.suspend(world.db, worker.id)
    world.workers = (WORKER,)
    assert (await world.converge()).workers[WORKER.key].reason == "PausedByItself"
    world.workers = (replace(WORKER, state="Ready"),)
    assert (await world.converge()).workers[WORKER.key].reason == "Working"


async def test_stopped_waits_for_the_drain_but_not_for_ever(world: World) -> None:
    await world.converge()
    worker = await world.worker()
    message = await leased(world, worker)
    world.workers = (replace(WORKER, state="Stopped"),)
    assert (await world.converge()).workers[WORKER.key].reason == "Draining"
    assert await lifecycle.leased(world.db, worker.id) == 1
    world.workers = (replace(WORKER, state="Stopped", drain_over=True),)
    assert (await world.converge()).workers[WORKER.key].reason == "Stopped"
    assert (await lifecycle.get(world.db, worker.id)).status is WorkerStatus.STOPPED
    assert (await world.worker()).status is WorkerStatus.SUSPENDED
    other = await lifecycle.register(world.db, "emails", hostname="web-2.shop")
    assert await dequeued(world, other.id) == [message]


async def test_the_messages_of_a_pod_that_ended_are_free(world: World) -> None:
    await world.converge()
    worker = await world.worker()
    message = await leased(world, worker)
    world.workers = (WORKER,)
    world.ended = {POD.uid: "container app: OOMKilled (137)"}
    assert WORKER.key in (await world.converge()).done_workers
    stopped = await lifecycle.get(world.db, worker.id)
    assert (stopped.status, stopped.stop_reason) == (WorkerStatus.STOPPED, "container app: OOMKilled (137)")
    other = await lifecycle.register(world.db, "emails", hostname="web-2.shop")
    assert await dequeued(world, other.id) == [message]


async def test_a_pod_that_ends_is_left_to_its_sidecar(world: World) -> None:
    await world.converge()
    worker = await world.worker()
    await pods.begin_termination(world.db, POD.uid)
    world.workers = (replace(WORKER, pod_ending=True, state="Ready"),)
    planned = await world.converge()
    assert planned.workers[WORKER.key].reason == "Terminating"
    assert await lifecycle.status(world.db, worker.id) is WorkerStatus.INTERRUPTED


async def test_only_a_silent_worker_is_stopped_for_its_silence(world: World) -> None:
    await world.converge()
    silent, fresh = await world.worker(), await world.worker()
    message = await leased(world, silent)
    async with world.db.transaction() as transaction:
        await transaction.execute(
            f"UPDATE pgqrs_workers SET heartbeat_at = now() - interval '61 seconds' WHERE id = {silent.id}"
        )
    await world.converge()
    assert (await lifecycle.get(world.db, silent.id)).stop_reason == "heartbeat timeout"
    assert await lifecycle.status(world.db, fresh.id) is WorkerStatus.READY
    assert await dequeued(world, fresh.id) == [message]


async def test_right_after_an_outage_silence_says_nothing(world: World) -> None:
    await world.converge()
    worker = await world.worker()
    async with world.db.transaction() as transaction:
        await transaction.execute("UPDATE pgqrs_workers SET heartbeat_at = now() - interval '1 hour'")
    world.silence_counts = False
    await world.converge()
    assert await lifecycle.status(world.db, worker.id) is WorkerStatus.READY
    world.silence_counts = True
    await world.converge()
    assert await lifecycle.status(world.db, worker.id) is WorkerStatus.STOPPED


async def test_the_restarted_process_of_a_suspended_pod_is_suspended(world: World) -> None:
    await world.converge()
    first = await world.worker()
    world.workers = (replace(WORKER, state="Suspended"),)
    await world.converge()
    await lifecycle.stop(world.db, [first.id], reason="process died")
    second = await world.worker()
    assert second.status is WorkerStatus.SUSPENDED
    assert (await world.converge()).workers[WORKER.key].reason == "Suspended"

    world.workers = (WORKER,)
    await world.converge()
    assert await lifecycle.status(world.db, second.id) is WorkerStatus.READY
    await lifecycle.stop(world.db, [second.id], reason="process died")
    assert (await world.worker()).status is WorkerStatus.READY


async def test_a_queue_that_cannot_be_removed_is_its_own_problem_alone(world: World) -> None:
    world.queues = (queue("a"), queue("b"))
    await world.converge()
    async with world.db.transaction() as transaction:
        await transaction.execute(
            "CREATE TABLE reports (queue_id bigint REFERENCES pgqrs_queues);"
            "INSERT INTO reports SELECT id FROM pgqrs_queues WHERE queue_name = 'a'"
        )
    world.queues = (queue("a", deleting=True, delete_data=True), queue("b", deleting=True, delete_data=True))
    outcome = await carry_out(world.db, (await world.plan()).actions, Metrics())
    assert list(outcome.queues) == [Key("shop", "a")]
    assert (await world.plan()).done_queues == {Key("shop", "b")}


async def test_a_resource_that_is_to_be_left_alone_is(world: World) -> None:
    await world.converge()
    await queues.set_policy(world.db, "emails", QueuePolicy(paused=True))
    world.queues = (queue(frozen=True, settled=True),)
    assert (await world.converge()).queues[Key("shop", "emails")].reason == "PausedReconciliation"
    assert (await world.row()).policy.paused


_policies = st.builds(
    QueuePolicy,
    paused=st.booleans(),
    lease_duration=st.integers(1, 43200).map(lambda seconds: timedelta(seconds=seconds)),
    read_limit=st.integers(1, 1000),
    heartbeat_timeout=st.integers(15, 86400).map(lambda seconds: timedelta(seconds=seconds)),
)
_steps = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), _policies, max_size=3).flatmap(
        lambda declared: st.tuples(
            st.just(declared), st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d"]), _policies), max_size=3)
        )
    ),
    min_size=1,
    max_size=4,
)


@given(steps=_steps)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_declared_and_whatever_was_done_by_hand_the_rows_become_as_declared(
    admin: pgqrs.Admin, steps: list[tuple[dict[str, QueuePolicy], list[tuple[str, QueuePolicy]]]]
) -> None:
    world = World(admin.database)
    for left in await queues.listing(world.db):
        await queues.delete(world.db, left.queue_name)
    for declared, by_hand in steps:
        for name, policy in by_hand:
            try:
                await queues.set_policy(world.db, name, policy)
            except pgqrs.QueueNotFoundError:
                await queues.create(world.db, name, policy)
        gone = [queue(one.name, deleting=True) for one in world.queues if one.name not in declared and not one.deleting]
        world.queues = (*(queue(name, policy=policy) for name, policy in declared.items()), *gone)
        planned = await world.converge()
        assert {key.name for key in planned.done_queues} == {one.name for one in gone}
        rows = {row.queue_name: row for row in await queues.listing(world.db)}
        assert {name: rows[name].policy for name in declared} == declared
        assert {name for name, row in rows.items() if row.owner} == set(declared), json.dumps(sorted(rows))
