"""The operator's pure parts: what a pod, a resource and a status say, and what the store makes of what it is shown."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqrs_operator import declarations, details, handlers, pods, verdicts
from pgqrs_operator.api import ApiError, Listing
from pgqrs_operator.facts import Key, WorkerReport
from pgqrs_operator.pace import BUSY_SECONDS, IDLE_SECONDS, Pace
from pgqrs_operator.settings import Settings, SettingsError
from pgqrs_operator.store import Store, read_queue, read_worker
from tests.support.merge_patch import merged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings()
RUNNING: dict[str, Any] = {"state": {"running": {}}}
OOM: dict[str, Any] = {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
COMPLETED: dict[str, Any] = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
BACKOFF: dict[str, Any] = {"state": {"waiting": {}}, "lastState": OOM["state"]}
NEVER_RAN: dict[str, Any] = {"state": {"waiting": {}}}


def pod_body(app: dict[str, Any], sidecar: dict[str, Any], phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "uid": "u1",
            "resourceVersion": "7",
            "labels": {"pgqrs.io/queue": "emails"},
            **metadata,
        },
        "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "pgqrs-sidecar"}]},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "app", **app}],
            "initContainerStatuses": [{"name": "pgqrs-sidecar", **sidecar}],
        },
    }


@pytest.mark.parametrize(
    ("app", "sidecar", "phase", "ended", "final"),
    [
        (RUNNING, RUNNING, "Running", None, False),
        # The sidecar lives: it knows best.
        (OOM, RUNNING, "Running", None, False),
        # The app lives, and may be working without its sidecar.
        (RUNNING, OOM, "Running", None, False),
        (BACKOFF, BACKOFF, "Running", "container app: OOMKilled (137)", False),
        (OOM, OOM, "Running", "container app: OOMKilled (137)", False),
        (NEVER_RAN, RUNNING, "Pending", None, False),
        (NEVER_RAN, NEVER_RAN, "Pending", None, False),
        (COMPLETED, COMPLETED, "Succeeded", "container app: Completed (0)", True),
        (OOM, COMPLETED, "Failed", "container app: OOMKilled (137)", True),
        # A silent node proves nothing.
        (RUNNING, RUNNING, "Unknown", None, False),
    ],
)
def test_a_pod_has_ended_only_where_nothing_of_it_can_run(
    app: dict[str, Any], sidecar: dict[str, Any], phase: str, ended: str | None, *, final: bool
) -> None:
    pod = pods.read(pod_body(app, sidecar, phase))
    assert (pod.ended, pod.final) == (ended, final)
    assert pod.injected


def test_an_evicted_pod_says_so_with_or_without_statuses_of_containers() -> None:
    body = pod_body(OOM, RUNNING, "Failed")
    body["status"]["reason"] = "Evicted"
    assert pods.read(body).ended == "pod failed: Evicted; container app: OOMKilled (137)"
    body["status"] = {"phase": "Failed", "reason": "Evicted"}
    assert pods.read(body).ended == "pod failed: Evicted"


def test_a_pod_that_is_gone_is_told_of_with_what_was_seen_of_its_end() -> None:
    body = pod_body(OOM, RUNNING)
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "x"}
    assert pods.gone(pods.read(body)) == "pod deleted: container app: OOMKilled (137)"
    body["status"]["conditions"] = [{**disrupted, "status": "False"}]
    assert pods.gone(pods.read(body)) == "pod deleted: container app: OOMKilled (137)"
    body["status"]["conditions"] = [{"type": "Ready", "status": "True"}, disrupted]
    assert pods.gone(pods.read(body)) == "pod deleted: EvictionByEvictionAPI; container app: OOMKilled (137)"
    assert pods.gone(pods.read(pod_body(RUNNING, RUNNING))) == pods.gone(None) == "pod deleted"
    assert all(map(pods.is_gone, (pods.gone(None), pods.gone(pods.read(body)))))
    assert not pods.is_gone(pods.read(pod_body(OOM, OOM)).ended or "")


def _since(second: int) -> dict[str, Any]:
    return {"state": {"running": {"startedAt": f"2026-01-02T03:04:{second:02}Z"}}}


@pytest.mark.parametrize(
    ("apps", "sidecar", "before"),
    [
        pytest.param([{**_since(30), "lastState": OOM["state"]}], _since(1), 25, id="started anew"),
        pytest.param([{**_since(30), "lastState": OOM["state"]}, _since(20)], _since(1), 15, id="another goes on"),
        pytest.param([OOM], _since(1), None, id="none runs"),
        pytest.param([BACKOFF, NEVER_RAN], _since(1), None, id="none runs any more, or yet"),
    ],
)
def test_what_ran_in_containers_that_ended_is_over_but_not_what_others_may_have_begun(
    apps: list[dict[str, Any]], sidecar: dict[str, Any], before: int | None
) -> None:
    body = pod_body(RUNNING, sidecar)
    body["status"]["containerStatuses"] = [{"name": f"app-{number}", **app} for number, app in enumerate(apps)]
    restart = pods.read(body).restart
    assert restart is not None
    assert restart.reason == "container app-0: OOMKilled (137)"
    assert restart.before == (None if before is None else datetime(2026, 1, 2, 3, 4, before, tzinfo=UTC))


@pytest.mark.parametrize(
    "app",
    [RUNNING, _since(30), NEVER_RAN, {"state": {}, "lastState": OOM["state"]}, {**RUNNING, "lastState": OOM["state"]}],
)
def test_where_a_container_may_never_have_ended_nothing_is_over(app: dict[str, Any]) -> None:
    assert pods.read(pod_body(app, RUNNING)).restart is None


def worker_body(state: str | None = None, **metadata: Any) -> dict[str, Any]:
    spec = {"queueRef": {"name": "emails"}, **({"state": state} if state else {})}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "u1"}
    return {
        "kind": "PgqrsWorker",
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "w1", "ownerReferences": [owner], **metadata},
        "spec": spec,
    }


def test_the_mirror_of_a_pod_that_goes_on_stops_nothing_when_it_is_deleted() -> None:
    resource = read_worker(worker_body(deletionTimestamp="2026-01-01T00:00:00Z"))
    living = pods.read(pod_body(RUNNING, RUNNING))
    ending = pods.read(pod_body(RUNNING, RUNNING, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert not declarations.worker(resource, living, SETTINGS, now=NOW).deleting
    assert declarations.worker(resource, ending, SETTINGS, now=NOW).deleting
    assert declarations.worker(resource, None, SETTINGS, now=NOW).deleting


@pytest.mark.parametrize(("age", "over"), [(24, False), (26, True)])
def test_a_drain_is_over_after_its_time(age: int, *, over: bool) -> None:
    body = worker_body("Stopped", generation=3)
    since = (NOW - timedelta(seconds=age)).isoformat()
    body["status"] = {"drain": {"generation": 3, "since": since}}
    assert declarations.worker(read_worker(body), None, SETTINGS, now=NOW).drain_over is over
    # The drain of an older generation was another one.
    body["status"] = {"drain": {"generation": 2, "since": since}}
    assert not declarations.worker(read_worker(body), None, SETTINGS, now=NOW).drain_over
    # What was said before it began, and when it was deleted, is no drain yet.
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    condition = {"type": "Reconciling", "status": "True", "reason": "Draining", "observedGeneration": 3}
    body["status"] = {"conditions": [{**condition, "lastTransitionTime": since}]}
    assert not declarations.worker(read_worker(body), None, SETTINGS, now=NOW).drain_over


@pytest.mark.parametrize("state", ["Stopped", "Suspended"])
def test_the_beginning_of_a_drain_is_told_once(state: str) -> None:
    resource = read_worker(worker_body(state, generation=3))
    verdict, report = verdicts.waiting("Draining", ""), WorkerReport(state="Draining")
    told = details.worker_details(resource, report, verdict, counted=False, now=NOW)
    assert ("drain" in told) is (state == "Stopped")
    if state == "Stopped":
        again = read_worker({**worker_body(state, generation=3), "status": told})
        later = NOW + timedelta(hours=1)
        assert details.worker_details(again, report, verdict, counted=False, now=later)["drain"] == told["drain"]
        next_one = read_worker({**worker_body(state, generation=4), "status": told})
        drain = details.worker_details(next_one, report, verdict, counted=False, now=later)["drain"]
        assert (drain["generation"], drain["since"][11:13]) == (4, "04")
        over = verdicts.ready("Stopped", "")
        assert "drain" not in details.worker_details(again, report, over, counted=False, now=later)


def test_a_worker_may_not_speak_for_a_pod_of_another_namespace() -> None:
    pod = pods.read(pod_body(RUNNING, RUNNING))
    liar = declarations.worker(read_worker(worker_body("Stopped", namespace="evil")), pod, SETTINGS, now=NOW)
    assert (liar.pod_uid, liar.row_name, liar.mirror) == (None, None, False)
    assert "namespace 'evil'" in liar.problem
    own, stand_in = declarations.desired([], [read_worker(worker_body(namespace="evil"))], [pod], SETTINGS).workers
    assert own.problem
    assert (stand_in.key, stand_in.pod_uid) == (Key("shop", "web-1"), "u1")


def test_what_takes_its_time_is_not_looked_at_all_the_time() -> None:
    pace, key = Pace(), Key("shop", "emails")
    draining, endless = verdicts.waiting("Draining", "1"), verdicts.waiting("WaitingForMessages", "7")
    assert pace.after(0.0, 0.0, {key: verdicts.ready("InSync", "")}) == IDLE_SECONDS
    assert pace.after(1.0, 0.0, {key: endless}, {}) == BUSY_SECONDS
    assert pace.after(20.0, 0.0, {key: endless}) == BUSY_SECONDS
    assert pace.after(40.0, 0.0, {key: endless}) == IDLE_SECONDS
    # Another thing that is under way is looked at soon.
    assert pace.after(41.0, 0.0, {key: endless}, {key: draining}) == BUSY_SECONDS
    assert pace.after(42.0, 0.0, {key: endless}, {}) == BUSY_SECONDS
    assert pace.after(80.0, 0.0, {key: endless}, {}) == IDLE_SECONDS
    assert pace.after(81.0, 0.0, {}, {key: verdicts.waiting("WaitingForWorker", "")}) == IDLE_SECONDS


@pytest.mark.parametrize(
    ("took", "idle", "busy"), [(0.1, 5.0, 1.0), (0.3, 10.0, 1.0), (3.0, 25.0, 3.0), (60.0, 25.0, 5.0)]
)
def test_what_takes_long_is_looked_at_less_often_but_within_half_a_minute(
    took: float, idle: float, busy: float
) -> None:
    draining = {Key("shop", "emails"): verdicts.waiting("Draining", "1")}
    assert Pace().after(0.0, took) == idle
    assert Pace().after(0.0, took, draining) == busy


@pytest.mark.parametrize(
    ("retention", "field"),
    [
        ({"archivedMessages": "soon"}, "spec.retention.archivedMessages"),
        ({"deadLetters": "40000d"}, "spec.retention.deadLetters"),
        ({"stoppedWorkers": "-1d"}, "spec.retention.stoppedWorkers"),
    ],
)
def test_a_retention_that_is_not_allowed_names_its_field(retention: dict[str, str], field: str) -> None:
    body = {"kind": "PgqrsQueue", "metadata": {"name": "q", "namespace": "n"}, "spec": {"retention": retention}}
    desired = declarations.queue(read_queue(body), SETTINGS)
    assert desired.policy is None
    assert field in desired.problem


def test_an_injected_pod_counts_before_it_has_a_resource() -> None:
    pod = pods.read(pod_body(RUNNING, RUNNING))
    (worker,) = declarations.desired([], [], [pod], SETTINGS).workers
    assert (worker.key, worker.pod_uid) == (Key("shop", "web-1"), "u1")
    (worker,) = declarations.desired([], [read_worker(worker_body())], [pod], SETTINGS).workers
    assert worker.pod_uid == "u1"


@pytest.mark.parametrize("spec", [{"leaseDuration": "soon"}, {"maxReads": 0}, {"leaseDuration": "13h"}])
def test_a_specification_that_is_not_allowed_names_its_field(spec: dict[str, Any]) -> None:
    body = {"kind": "PgqrsQueue", "metadata": {"name": "emails", "namespace": "shop"}, "spec": spec}
    desired = declarations.queue(read_queue(body), SETTINGS)
    assert desired.policy is None
    assert f"spec.{next(iter(spec))}" in desired.problem


def test_conditions_keep_their_time_while_their_status_stays() -> None:
    first = verdicts.conditions(verdicts.waiting("Applying", "a"), generation=1, previous=[], now=NOW)
    later = verdicts.conditions(
        verdicts.waiting("Draining", "b"), generation=2, previous=first, now=NOW + timedelta(hours=1)
    )
    assert [c["lastTransitionTime"] for c in first] == [c["lastTransitionTime"] for c in later]
    assert [c["status"] for c in later] == ["False", "True", "False"]
    ready = verdicts.conditions(
        verdicts.ready("InSync", "c"), generation=2, previous=later, now=NOW + timedelta(hours=2)
    )
    assert [c["lastTransitionTime"][11:13] for c in ready] == ["05", "05", "03"]


_documents = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda children: st.dictionaries(st.sampled_from("abc"), children, max_size=3),
)
_objects = st.dictionaries(st.sampled_from("abc"), _documents, max_size=3)


@given(_objects, _objects)
@settings(deadline=None)
def test_a_merge_patch_leads_from_the_old_to_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    kept = copy.deepcopy(old)
    patch = verdicts.merge_patch(old, new)
    assert merged(old, patch) == new
    assert old == kept
    assert not verdicts.merge_patch(new, new)


def _versions(version: int) -> dict[str, Any]:
    return {
        "kind": "PgqrsQueue",
        "metadata": {"name": "q", "namespace": "n", "uid": "u", "resourceVersion": str(version)},
    }


async def _pages(*pages: list[dict[str, Any]], version: int) -> AsyncIterator[Listing]:
    for items in pages:
        yield Listing(items, str(version))


async def _broken_off(*items: dict[str, Any], version: int) -> AsyncIterator[Listing]:
    yield Listing(list(items), str(version))
    message = "the second page did not come"
    raise ApiError(message)


async def test_an_older_version_never_replaces_a_newer_one_nor_brings_back_what_is_gone() -> None:
    store = Store()
    store.queues.put(_versions(5))
    store.queues.put(_versions(4))
    assert [queue.version for queue in store.queues] == [5]
    # A list that was read before the newest change does not take it away.
    await store.queues.replace(_pages([], version=4))
    assert len(store.queues) == 1
    store.queues.drop("u", 6)
    await store.queues.replace(_pages([_versions(5)], version=5))
    assert len(store.queues) == 0
    await store.queues.replace(_pages([], version=9))
    assert len(store.queues) == 0


async def test_nothing_is_gone_because_a_page_of_a_list_did_not_come_or_shows_others() -> None:
    store = Store()
    first, second = _versions(5), _versions(5)
    second["metadata"]["uid"] = "v"
    await store.queues.replace(_pages([first], [second], version=6))
    assert sorted(queue.uid for queue in store.queues) == ["u", "v"]
    with pytest.raises(ApiError):
        await store.queues.replace(_broken_off(first, version=9))
    assert sorted(queue.uid for queue in store.queues) == ["u", "v"]
    await store.queues.replace(_pages([first], [], version=9))
    assert [queue.uid for queue in store.queues] == ["u"]


def test_the_membership_tells_whether_other_objects_are_there() -> None:
    store = Store()
    seen = [store.queues.membership]
    for body in (_versions(5), _versions(6)):
        store.queues.put(body)
        seen.append(store.queues.membership)
    store.queues.drop("u", 7)
    seen.append(store.queues.membership)
    assert seen[0] != seen[1] == seen[2] != seen[3]


async def test_what_is_known_already_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store.queues.put(_versions(5))
    monkeypatch.setattr(store.queues, "_read", None)
    await store.queues.replace(_pages([_versions(5)], version=7))
    assert [queue.version for queue in store.queues] == [5]


def test_what_disappeared_is_remembered_as_it_was_last_shown() -> None:
    store = Store()
    body = pod_body(RUNNING, RUNNING)
    store.pods.put(body)
    assert store.pods.last("u1") == store.pods.get("u1")
    handlers.take(store.pods, {"type": "DELETED", "object": pod_body(OOM, RUNNING, resourceVersion="8")}, "Pod")
    assert store.pods.get("u1") is None
    assert pods.gone(store.pods.last("u1")) == "pod deleted: container app: OOMKilled (137)"
    assert store.pods.last("other") is None


@pytest.mark.parametrize(
    ("cluster", "watched", "owner", "seen"),
    [
        (None, None, "shop/emails", True),
        (None, "shop", "shop/emails", True),
        (None, "web", "shop/emails", False),
        (None, None, "west/shop/emails", False),
        ("west", None, "west/shop/emails", True),
        ("west", None, "shop/emails", False),
        (None, None, "somebody", False),
    ],
)
def test_an_owner_is_respected_unless_it_would_be_seen(
    cluster: str | None, watched: str | None, owner: str, *, seen: bool
) -> None:
    assert Settings(cluster=cluster, watch_namespace=watched).watches(owner) is seen


@pytest.mark.parametrize(
    "name", ["PGQRS_HEALTH_PORT", "PGQRS_LOG_LEVEL", "PGQRS_MANAGE_WEBHOOK", "PGQRS_METRICS_QUEUES"]
)
def test_a_setting_that_is_not_allowed_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: "maybe"})
