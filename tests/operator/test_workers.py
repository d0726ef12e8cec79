"""Each row of a worker is looked after by one resource, and by one that may speak for it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pgqrs import fleet, lifecycle, queues
from pgqrs.models import QueuePolicy, WorkerStatus
from pgqrs_operator.actions import carry_out
from pgqrs_operator.endings import Endings
from pgqrs_operator.facts import Desired, DesiredWorker, Key
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.surroundings import Surroundings
from tests.operator.world import POD, WORKER, World, leased, queue

if TYPE_CHECKING:
    import pgqrs
    from tests.operator.conftest import Cluster

MIRROR = replace(WORKER, mirror=True)
#: Somebody's own for the same pod, older than the one that was made for it.
SECOND = replace(WORKER, key=Key("shop", "mine"), owner="shop/mine", age=("0", "0"), state="Suspended")
NAMED = DesiredWorker(
    key=Key("shop", "named"), owner="shop/named", age=("0", "0"), row_name="web-1.shop:1", queue_name="emails"
)


@pytest.mark.parametrize(
    ("workers", "first", "second"),
    [
        pytest.param((SECOND, MIRROR), MIRROR, SECOND, id="the one of the pod wins"),
        pytest.param((SECOND, WORKER), SECOND, WORKER, id="of two others the older one wins"),
        pytest.param((replace(NAMED, state="Suspended"), MIRROR), MIRROR, NAMED, id="a name, and a pod"),
        pytest.param(
            (NAMED, replace(NAMED, key=Key("shop", "b"), age=("1", ""), state="Suspended")),
            NAMED,
            replace(NAMED, key=Key("shop", "b")),
            id="of two with one name the older one wins",
        ),
    ],
)
async def test_of_two_resources_for_one_worker_one_counts(
    world: World, workers: tuple[DesiredWorker, ...], first: DesiredWorker, second: DesiredWorker
) -> None:
    await world.converge()
    row = await (world.worker() if POD.uid in {one.pod_uid for one in workers} else _outside(world))
    for order in itertools.permutations(workers):
        world.workers = order
        planned = await world.converge()
        assert planned.workers[second.key].reason == "Conflict"
        assert str(first.key) in planned.workers[second.key].message
        wanted = "suspended" if next(one for one in workers if one.key == first.key).state == "Suspended" else "ready"
        assert await lifecycle.status(world.db, row.id) == wanted


async def _outside(world: World, name: str = "emails") -> pgqrs.WorkerInfo:
    return await lifecycle.register(world.db, name, hostname="web-1.shop", port=1)


async def test_the_one_that_does_not_count_is_let_go_when_it_is_deleted(world: World) -> None:
    await world.converge()
    row = await world.worker()
    world.workers = (MIRROR, replace(SECOND, deleting=True))
    assert SECOND.key in (await world.converge()).done_workers
    assert await lifecycle.status(world.db, row.id) is WorkerStatus.READY


async def test_when_the_first_one_is_gone_what_it_held_back_goes_on(world: World) -> None:
    await world.converge()
    row = await world.worker()
    world.workers = (SECOND,)
    await world.converge()
    assert await lifecycle.status(world.db, row.id) is WorkerStatus.SUSPENDED
    world.workers = (MIRROR,)
    assert (await world.converge()).workers[MIRROR.key].reason == "Working"
    assert await lifecycle.status(world.db, row.id) is WorkerStatus.READY


@pytest.mark.parametrize("state", ["Suspended", "Stopped"])
async def test_a_name_says_nothing_about_a_worker_of_another_queue(world: World, state: str) -> None:
    await world.converge()
    await queues.create(world.db, "letters")
    row = await _outside(world, "letters")
    world.workers = (replace(NAMED, state=state),)  # type: ignore[arg-type]
    verdict = (await world.converge()).workers[NAMED.key]
    assert (verdict.kind, verdict.reason) == ("stalled", "WrongQueue")
    assert "'letters'" in verdict.message
    assert "'emails'" in verdict.message
    assert await lifecycle.status(world.db, row.id) is WorkerStatus.READY
    world.workers = (replace(NAMED, state=state, deleting=True),)  # type: ignore[arg-type]
    assert NAMED.key in (await world.converge()).done_workers
    assert await lifecycle.status(world.db, row.id) is WorkerStatus.READY


async def test_nobody_speaks_for_a_pod_of_another_namespace(world: World) -> None:
    await world.converge()
    row = await world.worker()
    liar = replace(SECOND, key=Key("evil", "web-1"), owner="evil/web-1", mirror=True)
    for changes in ({}, {"state": "Stopped", "drain_over": True}, {"deleting": True, "drain_over": True}):
        world.workers = (replace(liar, **changes), MIRROR)
        assert (await world.converge()).workers[MIRROR.key].reason == "Working"
        assert await lifecycle.status(world.db, row.id) is WorkerStatus.READY


async def test_a_pod_is_gone_where_it_is_in_no_namespace_that_anybody_names(cluster: Cluster) -> None:
    uid = cluster.server.put_pod("web-1")["metadata"]["uid"]
    endings = Endings(cluster.kubernetes, cluster.store.pods)
    assert await endings.confirmed({uid: {"evil", "shop"}, "other": {"shop"}}, {}) == {"other": "pod deleted"}
    cluster.server.refusals["/shop/pods"] = 403
    assert await Endings(cluster.kubernetes, cluster.store.pods).confirmed({"x": {"evil", "shop"}}, {}) == {}


async def test_a_pod_that_was_here_is_this_clusters_for_a_while(world: World, cluster: Cluster) -> None:
    """Also one that registered after its last look at it and is gone before the next."""
    await world.converge()
    surroundings = Surroundings(cluster.store, cluster.settings, Endings(cluster.kubernetes, cluster.store.pods))
    cluster.server.put_pod("web-1", uid=POD.uid)
    await cluster.seen()
    nothing = Desired(queues=(), workers=())
    surroundings.know(cluster.store.pods, [])
    _, ends = await surroundings.complete(nothing, await fleet.observe(world.db, queues=["emails"]))
    assert not ends.pods

    await world.worker()
    stranger = replace(POD, uid="of another cluster", name="web-2")
    await lifecycle.register(world.db, "emails", hostname="web-2.shop", pod=stranger)
    cluster.server.delete("Pod", "web-1")
    await cluster.seen()
    surroundings.know(cluster.store.pods, [])
    _, ends = await surroundings.complete(nothing, await fleet.observe(world.db, queues=["emails"]))
    assert ends.pods == {POD.uid: "pod deleted"}


async def test_ready_resumes_what_somebody_interrupted(world: World) -> None:
    await world.converge()
    row = await world.worker()
    await lifecycle.interrupt(world.db, row.id)
    world.workers = (replace(MIRROR, state="Ready"),)
    assert (await world.converge()).workers[MIRROR.key].reason == "Working"
    assert await lifecycle.status(world.db, row.id) is WorkerStatus.READY


async def _silence(world: World, worker_id: int) -> None:
    async with world.db.transaction() as transaction:
        await transaction.execute(
            f"UPDATE pgqrs_workers SET heartbeat_at = now() - interval '1 hour' WHERE id = {worker_id}"
        )


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        pytest.param({"policy": None, "problem": "no"}, frozenset(), id="not allowed"),
        pytest.param({"frozen": True}, frozenset(), id="left alone"),
        pytest.param({"owner": "east/shop/emails"}, frozenset({"shop/emails"}), id="somebody else's"),
        pytest.param({"deleting": True, "delete_data": True}, frozenset(), id="going"),
    ],
)
async def test_silent_workers_are_stopped_whatever_is_wrong_with_their_queue(
    world: World, changes: dict[str, Any], others: frozenset[str]
) -> None:
    await world.converge()
    row = await world.worker()
    await leased(world, row)
    await _silence(world, row.id)
    world.queues, world.others = (queue(**changes),), others
    await world.converge()
    assert (await lifecycle.get(world.db, row.id)).stop_reason == "heartbeat timeout"


async def test_who_comes_after_a_silent_worker_that_is_to_be_paused_starts_paused(world: World) -> None:
    await world.converge()
    silent = await world.worker()
    await _silence(world, silent.id)
    world.workers = (replace(MIRROR, state="Suspended"),)
    await carry_out(world.db, (await world.plan()).actions, Metrics())
    assert (await lifecycle.get(world.db, silent.id)).stop_reason == "heartbeat timeout"
    assert (await world.worker()).status is WorkerStatus.SUSPENDED


async def test_a_worker_that_is_left_alone_is_stopped_when_it_is_dead(world: World) -> None:
    await world.converge()
    silent, dead = await world.worker(), await world.worker()
    world.workers = (replace(MIRROR, frozen=True, state="Suspended"),)
    verdict = (await world.converge()).workers[MIRROR.key]
    assert verdict.reason == "PausedReconciliation"
    assert "dead or silent" in verdict.message
    assert await lifecycle.status(world.db, dead.id) is WorkerStatus.READY

    await _silence(world, silent.id)
    await world.converge()
    assert (await lifecycle.get(world.db, silent.id)).stop_reason == "heartbeat timeout"
    world.ended = {POD.uid: "pod deleted"}
    planned = await world.converge()
    assert (await lifecycle.get(world.db, dead.id)).stop_reason == "pod deleted"
    assert not planned.done_workers


async def test_a_defect_that_one_object_brings_about_is_its_own_matter(world: World) -> None:
    class Broken(QueuePolicy):
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = QueuePolicy.__hash__

    world.queues = (queue("a"), queue("b"))
    await world.converge()
    await lifecycle.register(world.db, "a", hostname="x", port=1)
    world.queues = (queue("a", policy=Broken()), queue("b", policy=QueuePolicy(paused=True)))
    broken = replace(NAMED, row_name="x:1", queue_name="a", state="Stopped", drain_over=_Raises())  # type: ignore[arg-type]
    world.workers = (broken,)
    planned = await world.converge()
    assert planned.queues[Key("shop", "a")].reason == "InternalError"
    assert planned.workers[NAMED.key].reason == "InternalError"
    assert planned.queues[Key("shop", "b")].reason == "InSync"
    assert (await world.row("b")).policy.paused
    assert {one.kind for one in planned.defects} == {"queue", "worker"}


class _Raises:
    def __bool__(self) -> bool:
        raise RuntimeError
