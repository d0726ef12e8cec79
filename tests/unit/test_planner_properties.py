"""The planner, whatever people declare and whatever was done to rows: what is declared comes true, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqrs.models import WORKING, WorkerStatus
from pgqrs_operator.facts import DeclareQueue, DeleteQueue, Key, StopWorker
from pgqrs_operator.plan import plan
from tests.operator.planner_model import SETTINGS, Cluster
from tests.operator.planner_rows import QueueRow, WorkerRow
from tests.operator.planner_steps import INVALID, QUEUES, ROW_QUEUES, STEPS, WORKERS, do, expected

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection, Iterable

    from pgqrs_operator.facts import Plan

EMAILS = Key("shop", "a")
PROPERTY = settings(max_examples=300, deadline=None)


def cluster_after(steps: Iterable[tuple[Any, ...]]) -> Cluster:
    cluster = Cluster()
    for step in steps:
        do(cluster, step)
    return cluster


def owner(key: Key) -> str:
    return f"{key.namespace}/{key.name}"


def said(row: QueueRow | None) -> tuple[Any, ...] | None:
    """What a queue's row says; its messages are another matter."""
    return None if row is None else (row.policy, row.retention, row.owner)


# -- the rows are as declared


def without(name: str, before: Cluster, removed: Collection[Key]) -> QueueRow | None:
    """Say what is left of a row when these resources have gone."""
    row = before.rows.queues.get(name)
    for key in removed:
        if row is not None and row.owner == owner(key) and QUEUES[key] == name:
            if before.queues[key]["spec"].get("deletionPolicy") == "Delete":
                assert before.rows.live(name) == 0
                return None
            row = replace(row, owner=None)
    return row


def age(cluster: Cluster) -> Callable[[Key], str]:
    return lambda key: cluster.queues[key]["metadata"]["uid"]


def had_it(name: str, before: Cluster) -> Key | None:
    """Give the resource that had a row which is gone, going by statuses."""
    if name in before.rows.queues:
        return None
    told = {key: body.get("status", {}).get("queueId") for key, body in before.queues.items() if QUEUES[key] == name}
    had = [key for key, row_id in told.items() if type(row_id) is int and 0 < row_id < 2**63]
    return min(had, key=age(before), default=None)


def wanted(name: str, before: Cluster, after: Cluster) -> tuple[Any, ...] | None:
    """Say what the row of this name has to say once nothing is left to do."""
    base = without(name, before, before.queues.keys() - after.queues.keys())
    claims = [key for key in after.queues if QUEUES[key] == name]
    if not claims:
        return said(base)
    mine = [key for key in claims if base is not None and owner(key) == base.owner]
    holder = had_it(name, before)
    first = holder if holder in claims else min(mine or claims, key=age(before))
    metadata, spec = after.queues[first]["metadata"], after.queues[first]["spec"]
    plain = {field: value for field, value in spec.items() if field != "queueName"}
    if metadata["annotations"] or plain in INVALID:
        return said(base)
    if "deletionTimestamp" in metadata:
        assert spec["deletionPolicy"] == "Delete"
        assert mine
        assert after.rows.live(name) > 0
        return said(base)
    if base is not None and not mine:
        foreign = (
            base.owner is not None and base.owner not in map(owner, after.queues) and not SETTINGS.watches(base.owner)
        )
        if foreign or spec.get("adopt") == "Never":
            return said(base)
    policy, retention = expected(spec)
    return policy, retention or (base or QueueRow()).retention, owner(first)


@PROPERTY
@given(STEPS)
def test_rows_become_as_declared_and_nobody_else_s_are_touched(steps: list[tuple[Any, ...]]) -> None:
    after = cluster_after(steps)
    before = after.copied()
    after.settle()
    for name in ROW_QUEUES:
        assert said(after.rows.queues.get(name)) == wanted(name, before, after), name


def everything(cluster: Cluster) -> int:
    """Count all live messages, those of no queue included."""
    return sum(map(cluster.rows.live, cluster.rows.queues)) + sum(cluster.rows.orphans.values())


@PROPERTY
@given(STEPS)
def test_nothing_is_lost(steps: list[tuple[Any, ...]]) -> None:
    after = cluster_after(steps)
    before = after.copied()
    after.settle()
    for name in before.rows.queues:
        # A row that was made anew may have found messages that were left behind.
        assert (after.rows.live(name) if name in after.rows.queues else 0) >= before.rows.live(name)
    assert everything(after) == everything(before)
    assert not any(row.held for row in after.rows.workers.values() if row.status is WorkerStatus.STOPPED)


@PROPERTY
@given(STEPS)
def test_rows_that_somebody_deleted_come_back_as_the_same_with_their_messages(steps: list[tuple[Any, ...]]) -> None:
    cluster = cluster_after(steps)
    planned = cluster.settle()
    before = cluster.copied().rows
    declared = {QUEUES[key] for key, verdict in planned.queues.items() if verdict.ready}
    for name in ROW_QUEUES:
        do(cluster, ("row removed", name))
    cluster.settle()
    for name in declared:
        assert cluster.rows.ids[name] == before.ids[name]
        assert cluster.rows.live(name) == before.live(name)


# -- workers


def rows_of(cluster: Cluster, key: Key) -> list[WorkerRow]:
    pod, port = WORKERS[key]
    return [row for row in cluster.rows.alive().values() if (row.pod == pod if pod else row.name == f"legacy:{port}")]


def check_worker(cluster: Cluster, key: Key) -> None:
    """Check the rows of a resource that looks after them."""
    body, rows = cluster.workers[key], rows_of(cluster, key)
    pod = WORKERS[key][0]
    over = "status" in body
    going = "deletionTimestamp" in body["metadata"] or body["spec"].get("state") == "Stopped"
    if pod and cluster.pods.get(pod) in {"ending", "ended"}:
        assert cluster.pods[pod] == "ending" or not rows
        return
    if going and over:
        assert not rows
    for row in rows:
        if row.terminating:
            continue
        if going:
            assert (row.status, row.held > 0) == (WorkerStatus.INTERRUPTED, True)
        elif body["spec"].get("state") == "Suspended":
            assert row.status is (WorkerStatus.INTERRUPTED if row.held else WorkerStatus.SUSPENDED)
        elif body["spec"].get("state") == "Ready":
            assert row.status in WORKING
        else:
            assert row.owner is None if pod else row.owner != owner(key)


@PROPERTY
@given(STEPS, STEPS)
def test_workers_become_as_declared_and_nobody_else_s_are_touched(
    first: list[tuple[Any, ...]], more: list[tuple[Any, ...]]
) -> None:
    after = cluster_after(first)
    after.settle()
    for step in more:
        do(after, step)
    before = after.copied()
    planned = after.settle()
    assert planned.workers.keys() == after.workers.keys()
    assert planned.queues.keys() == after.queues.keys()
    for key, verdict in planned.workers.items():
        if verdict.kind != "stalled":
            check_worker(after, key)
    declared = {QUEUES[key] for key in before.queues}
    for number, row in before.rows.alive().items():
        named = any(row in rows_of(before, key) for key in before.workers)
        if row.queue not in declared and not named and (row.pod is None or row.pod not in before.pods):
            assert after.rows.workers[number] == row


@PROPERTY
@given(STEPS)
def test_the_dead_hold_nothing_wherever_anybody_looks(steps: list[tuple[Any, ...]]) -> None:
    cluster = cluster_after(steps)
    cluster.settle()
    owned = {
        QUEUES[key] for key in cluster.queues if getattr(cluster.rows.queues.get(QUEUES[key]), "owner", 0) == owner(key)
    }
    for row in cluster.rows.alive().values():
        if row.queue in owned:
            assert not row.silent
            assert row.pod is None or cluster.pods.get(row.pod) != "ended"


# -- plans


@PROPERTY
@given(STEPS)
def test_the_same_facts_give_the_same_plan_and_it_changes_nothing_by_itself(steps: list[tuple[Any, ...]]) -> None:
    cluster = cluster_after(steps)
    before = cluster.copied()
    desired, observed = cluster.facts()
    assert plan(desired, observed) == plan(desired, observed)
    assert cluster == before


@PROPERTY
@given(STEPS, STEPS)
def test_the_operator_may_have_been_away_for_any_time(
    first: list[tuple[Any, ...]], more: list[tuple[Any, ...]]
) -> None:
    """What was settled before makes no difference to what is true in the end, but for whose a row is."""
    cluster = cluster_after(first)
    cluster.settle()
    for step in more:
        do(cluster, step)
    before = cluster.copied()
    cluster.settle()
    for name in ROW_QUEUES:
        assert said(cluster.rows.queues.get(name)) == wanted(name, before, cluster), name
    settled = cluster.copied()
    cluster.settle()
    assert cluster == settled


@PROPERTY
@given(STEPS, st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_seen_is_of_no_account(
    steps: list[tuple[Any, ...]], shuffle: random.Random
) -> None:
    one = cluster_after(steps)
    other = one.copied()
    first, second = plan(*one.facts()), plan(*other.facts(shuffle))
    assert comparable(first) == comparable(second)
    assert comparable(one.settle()) == comparable(other.settle(shuffle))
    assert one == other


def comparable(planned: Plan) -> tuple[Any, ...]:
    return (
        frozenset(planned.actions),
        planned.queues,
        planned.workers,
        planned.reports,
        planned.done_queues,
        planned.done_workers,
        planned.served,
    )


@PROPERTY
@given(STEPS, st.sampled_from(sorted(QUEUES)), st.sampled_from(INVALID))
def test_an_invalid_change_that_is_taken_back_ends_in_the_same_rows(
    steps: list[tuple[Any, ...]], key: Key, wrong: dict[str, Any]
) -> None:
    cluster = cluster_after(steps)
    cluster.settle()
    if key not in cluster.queues:
        do(cluster, ("declare", key, {}))
        cluster.settle()
    body = cluster.queues[key]
    rows, spec = cluster.copied().rows, body["spec"]
    name = {"queueName": spec["queueName"]} if "queueName" in spec else {}
    body["spec"] = {**wrong, **name, **{field: spec[field] for field in ("adopt", "deletionPolicy") if field in spec}}
    cluster.settle()
    assert cluster.rows.queues == rows.queues
    body["spec"] = spec
    cluster.settle()
    assert cluster.rows.queues == rows.queues


# -- what the properties leave open


def actions(cluster: Cluster) -> list[Any]:
    return list(plan(*cluster.facts()).actions)


def test_each_field_that_was_changed_by_hand_is_set_right() -> None:
    cluster = cluster_after([("declare", EMAILS, {"retention": {"deadLetters": "1h"}})])
    cluster.settle()
    right = cluster.copied().rows.queues
    policy, _ = expected(
        {"paused": True, "leaseDuration": "2h", "maxReads": 9, "maxDeaths": 9, "heartbeatTimeout": "15s"}
        | {"deduplication": {"window": "1h"}}
    )
    retry, kept = expected({"retry": {"firstDelay": "15s", "factor": 9, "maxDelay": "2h"}, "retention": {}})
    changes: list[dict[str, Any]] = [
        {"policy": replace(right["a"].policy, **{field: getattr(policy, field)})}
        for field in (
            "paused",
            "lease_duration",
            "read_limit",
            "death_limit",
            "heartbeat_timeout",
            "deduplication_window",
        )
    ]
    backoff = right["a"].policy.backoff
    changes += [
        {"policy": replace(right["a"].policy, backoff=replace(backoff, **{field: getattr(retry.backoff, field)}))}
        for field in ("first", "factor", "most")
    ]
    changes += [{"policy": replace(right["a"].policy, backoff=replace(backoff, jitter=0.1))}, {"retention": kept}]
    changes += [{"owner": None}, {"owner": "shop/gone"}]
    for change in changes:
        cluster.rows.queues["a"] = replace(right["a"], **change)
        assert [type(action) for action in actions(cluster)] == [DeclareQueue], change
        cluster.settle()
        assert cluster.rows.queues == right


def test_who_has_the_row_keeps_it_when_an_older_resource_comes_to_want_it() -> None:
    cluster = cluster_after([("declare", Key("web", "second"), {"paused": True}), ("declare", EMAILS, {})])
    cluster.rows.make("a", QueueRow(owner="shop/a"))
    planned = cluster.settle()
    assert planned.queues[EMAILS].ready
    assert planned.queues[Key("web", "second")].reason == "Conflict"
    # Nor does it lose it where somebody deletes the row: its status says which one it was.
    do(cluster, ("sent", "a"))
    before = cluster.copied().rows
    do(cluster, ("row removed", "a"))
    assert "a" not in cluster.rows.queues
    assert cluster.settle().queues[EMAILS].ready
    assert cluster.rows == before
    do(cluster, ("delete", EMAILS))
    assert cluster.settle().queues[Key("web", "second")].ready
    assert cluster.rows.queues["a"].owner == "web/second"


def test_a_resource_that_adopts_nothing_has_to_do_with_its_own_row_alone() -> None:
    cluster = cluster_after([("row", "a", *expected({"retention": {}}), None), ("registered", "legacy:7", "a")])
    do(cluster, ("silent", 0, True))
    do(cluster, ("declare", EMAILS, {"adopt": "Never", "maxReads": 9}))
    before = cluster.copied().rows
    planned = cluster.settle()
    assert (planned.queues[EMAILS].kind, planned.queues[EMAILS].reason) == ("stalled", "Conflict")
    assert "spec.adopt" in planned.queues[EMAILS].message
    assert not planned.served
    assert cluster.rows == before
    # What is missing it makes; a row that somebody else makes at that moment stays that one's.
    cluster.rows.remove("a")
    planned = plan(*cluster.facts())
    cluster.rows.make("a", QueueRow())
    cluster.rows.carry_out(planned.actions)
    assert cluster.rows.queues["a"].owner is None
    cluster.rows.remove("a")
    assert cluster.settle().queues[EMAILS].ready


def test_a_queue_that_was_made_anew_meanwhile_is_not_the_one_that_was_to_be_removed() -> None:
    cluster = cluster_after([("declare", EMAILS, {"deletionPolicy": "Delete"})])
    cluster.settle()
    do(cluster, ("delete", EMAILS))
    (removal,) = actions(cluster)
    assert isinstance(removal, DeleteQueue)
    cluster.rows.remove("a")
    cluster.rows.make("a", QueueRow(owner="shop/a"))
    cluster.rows.carry_out([removal])
    assert "a" in cluster.rows.queues


def test_nobody_s_own_resource_is_told_of_a_pod_that_has_its_name() -> None:
    somebodys = Key("shop", "web-2")
    cluster = cluster_after(
        [
            ("declare", EMAILS, {}),
            ("look after", somebodys, None),
            ("pod", "uid-2", "running"),
            ("row", "a", *expected({"retention": {}}), None),
            ("registered", "web-2.shop:1", "a"),
        ]
    )
    planned = cluster.settle()
    assert planned.workers[somebodys].reason == "WaitingForWorker"
    assert planned.reports[somebodys].worker_ids == ()
    # Nor does it go with that pod.
    do(cluster, ("registered", "legacy:7", "a"))
    do(cluster, ("pod", "uid-2", "ended"))
    do(cluster, ("delete", somebodys))
    cluster.rows.queues["a"].free += 1
    do(cluster, ("leased", 1))
    planned = cluster.settle()
    assert planned.workers[somebodys].reason == "Draining"
    assert [row.name for row in cluster.rows.alive().values()] == ["legacy:7"]


@pytest.mark.parametrize(("key", "row"), [(Key("shop", "mine"), "web-1.shop:1"), (Key("shop", "same"), "legacy:7")])
def test_who_is_held_back_finishes_pauses_and_is_let_go_again(key: Key, row: str) -> None:
    cluster = cluster_after(
        [
            ("row", "a", *expected({"retention": {}}), None),
            ("declare", EMAILS, {}),
            ("registered", row, "a"),
            ("sent", "a"),
            ("leased", 0),
            ("look after", key, "Suspended"),
        ]
    )

    def becomes(reason: str, status: WorkerStatus, held_by: str | None) -> None:
        planned = cluster.settle()
        assert planned.workers[key].reason == reason
        (worker,) = cluster.rows.workers.values()
        assert (worker.status, worker.owner) == (status, held_by)

    becomes("Draining", WorkerStatus.INTERRUPTED, owner(key))
    do(cluster, ("finished", 0))
    becomes("Suspended", WorkerStatus.SUSPENDED, owner(key))
    do(cluster, ("look after", key, None))
    becomes("Working", WorkerStatus.READY, None)
    # What its own process does is its own matter, unless somebody wants it to work.
    do(cluster, ("paused", 0, "suspended"))
    becomes("PausedByItself", WorkerStatus.SUSPENDED, None)
    do(cluster, ("look after", key, "Ready"))
    becomes("Working", WorkerStatus.READY, None)
    do(cluster, ("look after", key, "Stopped"))
    becomes("Stopped", WorkerStatus.STOPPED, owner(key))


def test_a_silent_worker_is_stopped_and_what_it_held_is_free() -> None:
    cluster = cluster_after([("row", "a", *expected({"retention": {}}), None), ("declare", EMAILS, {})])
    for step in (("registered", "legacy:7", "a"), ("sent", "a"), ("leased", 0), ("silent", 0, True)):
        do(cluster, step)
    desired, observed = cluster.facts()
    assert not any(
        isinstance(one, StopWorker) for one in plan(desired, replace(observed, silence_counts=False)).actions
    )
    cluster.settle()
    assert not cluster.rows.alive()
    assert cluster.rows.queues["a"].free == 1
