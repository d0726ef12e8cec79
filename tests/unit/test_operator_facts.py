"""The operator's pure parts: what a pod, a resource and a status say, and what the store makes of what it is shown."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqrs_operator import declarations, pods, verdicts
from pgqrs_operator.facts import Key
from pgqrs_operator.settings import Settings, SettingsError
from pgqrs_operator.store import Store, read_queue, read_worker

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


def test_an_evicted_pod_says_so_without_statuses_of_containers() -> None:
    body = pod_body(RUNNING, RUNNING, "Failed")
    body["status"] = {"phase": "Failed", "reason": "Evicted"}
    assert pods.read(body).ended == "pod failed: Evicted"


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
    since = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "Reconciling", "status": "True", "reason": "Draining", "lastTransitionTime": since}
    body["status"] = {"conditions": [{**condition, "observedGeneration": 3}]}
    assert declarations.worker(read_worker(body), None, SETTINGS, now=NOW).drain_over is over
    # A condition of an older generation speaks of something else.
    body["status"] = {"conditions": [{**condition, "observedGeneration": 2}]}
    assert not declarations.worker(read_worker(body), None, SETTINGS, now=NOW).drain_over


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


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386, as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


@given(_objects, _objects)
def test_a_merge_patch_leads_from_the_old_to_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    kept = copy.deepcopy(old)
    patch = verdicts.merge_patch(old, new)
    assert _merged(old, patch) == new
    assert old == kept
    assert not verdicts.merge_patch(new, new)


def _versions(version: int) -> dict[str, Any]:
    return {
        "kind": "PgqrsQueue",
        "metadata": {"name": "q", "namespace": "n", "uid": "u", "resourceVersion": str(version)},
    }


def test_an_older_version_never_replaces_a_newer_one_nor_brings_back_what_is_gone() -> None:
    store = Store()
    store.queues.put(_versions(5))
    store.queues.put(_versions(4))
    assert [queue.version for queue in store.queues] == [5]
    # A list that was read before the newest change does not take it away.
    store.queues.replace([], 4)
    assert len(store.queues) == 1
    store.queues.drop("u", 6)
    store.queues.replace([_versions(5)], 5)
    assert len(store.queues) == 0
    store.queues.replace([], 9)
    assert len(store.queues) == 0


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


@pytest.mark.parametrize("name", ["PGQRS_HEALTH_PORT", "PGQRS_LOG_LEVEL", "PGQRS_MANAGE_WEBHOOK"])
def test_a_setting_that_is_not_allowed_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: "maybe"})
