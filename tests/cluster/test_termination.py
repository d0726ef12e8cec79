"""Pods that are deleted, each with another kind of app: what their handlers hold is finished, and nothing comes twice.

All of them end at the same time, because most of what these tests do is wait.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import eventually, in_time
from tests.cluster.workloads import SLEEPER, container, job, pod
from tests.support.cluster.errors import ClusterError
from tests.support.installation import VALUES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.ledgered import LedgeredShop
    from tests.cluster.workloads import Body

pytestmark = pytest.mark.timeout(400)

_BRIEF = {"pgqrs.io/drain-seconds": "15"}
#: Longer than any of these pods may take to be gone.
_LONG_GRACE = 120

_OTHER = "other"

#: Grace periods and containers of pods that take their messages from the queue `common`; each handler takes 4 s.
_KINDS = {
    "runs": (_LONG_GRACE, [container("run")]),
    "handles-sigterm": (_LONG_GRACE, [container("handles_sigterm")]),
    "ignores-sigterm": (20, [container("ignores_sigterm")]),
    "dies-of-sigterm": (20, [container("dies_of_sigterm")]),
    "two-apps": (_LONG_GRACE, [container("dies_of_sigterm"), container("run", name="second")]),
    "beside-another": (_LONG_GRACE, [container("dies_of_sigterm"), container(name=_OTHER, command=SLEEPER)]),
    "evicted": (20, [container("dies_of_sigterm")]),
}
_COMMON = {
    name: pod(name, "common", *containers, grace=grace, annotations=_BRIEF)
    for name, (grace, containers) in _KINDS.items()
}
#: What has a queue of its own name, whose one message takes so many seconds. These apps die of SIGTERM at once, so the
#: handler is finished only where its pod drains for long enough.
_OWN = {
    # Raised to what the drain needs.
    "short-grace": (12, pod("short-grace", "short-grace", container("dies_of_sigterm"), grace=3, annotations=_BRIEF)),
    # No annotation: the drain lasts as long as the grace period allows.
    "long-grace": (40, pod("long-grace", "long-grace", container("dies_of_sigterm"), grace=60)),
}
_SLEEPER = pod("sleeper", "common", container(command=SLEEPER), grace=_LONG_GRACE, annotations=_BRIEF)
_SPARE = pod("spare", "common", container(environment={"CONCURRENCY": "8"}))


@dataclass(frozen=True, slots=True)
class Endings:
    """What came of the pods that were deleted."""

    #: By the names of the pods.
    uids: dict[str, str]
    #: Those that were gone in time.
    gone: frozenset[str]


@pytest.fixture(scope="module")
def endings(ledgered: LedgeredShop) -> Endings:
    """Delete a pod of each kind while its handlers run; what goes wrong with one is for that one's test to say."""
    ledgered.patient_queues("common", *_OWN)
    bodies = [*_COMMON.values(), *(body for _, body in _OWN.values()), _SLEEPER, _SPARE]
    ledgered.apply(*bodies)
    uids = ledgered.uids(body["metadata"]["name"] for body in bodies)
    in_time(lambda: set(uids) <= _ready(ledgered), within=90.0)
    ledgered.follow(*uids)
    for queue, (seconds, _) in _OWN.items():
        ledgered.send_to(queue, 1, seconds=seconds)
    ledgered.send_to("common", 80, seconds=4)
    containers = {
        f"{uids[body['metadata']['name']]}/{one['name']}"
        for body in (*_COMMON.values(), *(body for _, body in _OWN.values()))
        for one in body["spec"]["containers"]
        if one["name"] != _OTHER
    }
    in_time(lambda: containers <= set(ledgered.running()), within=30.0)

    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"}}
    path = f"/api/v1/namespaces/{ledgered.namespace}/pods/evicted/eviction"
    ledgered.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    del uids["spare"]
    ledgered.kubectl("delete", "pods", *(name for name in uids if name != "evicted"), "--wait=false")
    in_time(lambda: not ledgered.left(uids.values()), within=75.0)
    left = ledgered.left(uids.values())
    return Endings(uids=uids, gone=frozenset(name for name, uid in uids.items() if uid not in left))


def _ready(ledgered: LedgeredShop) -> set[str]:
    """Name the pods that are ready."""
    return {
        body["metadata"]["name"]
        for body in ledgered.items("pods")
        if any(one["type"] == "Ready" and one["status"] == "True" for one in body["status"].get("conditions", ()))
    }


@pytest.mark.parametrize("name", [*_COMMON, *_OWN])
def test_a_deleted_pod_finishes_what_its_handlers_hold(name: str, endings: Endings, ledgered: LedgeredShop) -> None:
    # Where the grace period is long, it was gone well before its end.
    assert name in endings.gone
    reasons = [worker.reason or "" for worker in ledgered.wait_stopped(endings.uids[name], within=30.0)]
    # Its sidecar or its end said so, and not only the end of its PgqrsWorker, which is the last resort.
    assert [reason for reason in reasons if reason.startswith("PgqrsWorker")] == []
    work = ledgered.work(endings.uids[name])
    assert work.began > 0
    assert work.ended == work.began
    assert work.redelivered == 0


def test_both_apps_of_a_pod_finish_theirs(endings: Endings, ledgered: LedgeredShop) -> None:
    workers = ledgered.wait_stopped(endings.uids["two-apps"], within=30.0)
    assert {worker.container for worker in workers if worker.handled} == {"app", "second"}


def test_a_pod_whose_app_knows_nothing_of_pgqrs_ends_too(endings: Endings, ledgered: LedgeredShop) -> None:
    assert "sleeper" in endings.gone
    uid = endings.uids["sleeper"]
    assert [worker.reason for worker in ledgered.wait_stopped(uid, within=30.0)] == ["pod ended"]
    assert ledgered.work(uid).began == 0


@pytest.mark.parametrize("queue", ["common", *_OWN])
@pytest.mark.usefixtures("endings")
def test_nothing_is_lost(queue: str, ledgered: LedgeredShop) -> None:
    ledgered.wait_done(queue, within=60.0)
    summary = ledgered.ledger(queue).summary()
    assert summary["sent"] == summary["handled"]
    assert (summary["lost"], summary["not_archived"], summary["redelivered"]) == (0, 0, 0)


def _dry(ledgered: LedgeredShop, body: Body) -> tuple[int, str]:
    """Give the grace period that a pod would have, and what its author would be warned of."""
    words, text = ("apply", "--dry-run=server", "-f", "-"), json.dumps(body)
    made = json.loads(ledgered.kubectl(*words, "-o", "json", stdin=text))
    with pytest.raises(ClusterError, match="Warning: pgqrs: ") as warned:
        ledgered.kubectl(*words, "--warnings-as-errors", stdin=text)
    return made["spec"]["terminationGracePeriodSeconds"], str(warned.value)


def test_a_grace_period_that_is_too_short_is_raised_with_a_warning(ledgered: LedgeredShop) -> None:
    ledgered.patient_queues("raised")
    body = pod("raised", "raised", container(command=SLEEPER), grace=3, annotations=_BRIEF)
    seconds, warning = _dry(ledgered, body)
    assert seconds == 15 + 5
    assert f"terminationGracePeriodSeconds is raised from 3 to {seconds}" in warning


def test_a_grace_period_that_must_not_be_raised_stays_and_loses_nothing(ledgered: LedgeredShop) -> None:
    ledgered.patient_queues("kept")
    installation = ledgered.installation
    installation.install({**VALUES, "injector": {"raiseGracePeriod": False}})
    try:
        body = pod("kept", "kept", container("ignores_sigterm"), grace=3, annotations=_BRIEF)
        seconds, warning = _dry(ledgered, body)
        assert seconds == 3
        assert "terminationGracePeriodSeconds should be 20 or more" in warning
        ledgered.start(body)
    finally:
        installation.install(VALUES)
    uid = ledgered.uid("kept")
    ledgered.send_to("kept", 2, seconds=12)
    ledgered.wait_at_work([uid])
    ledgered.kubectl("delete", "pod", "kept", "--wait=false")
    ledgered.wait_gone([uid], within=30.0)
    ledgered.wait_stopped(uid)
    ledgered.start(pod("heir", "kept"))
    ledgered.wait_done("kept", within=60.0)
    summary = ledgered.ledger("kept").summary()
    # Its handlers were cut off: they had less time than they need.
    assert (summary["sent"], summary["handled"], summary["redelivered"]) == (2, 2, 2)
    assert (summary["lost"], summary["not_archived"]) == (0, 0)


def test_a_job_completes(ledgered: LedgeredShop) -> None:
    ledgered.patient_queues("batch")
    ledgered.send_to("batch", 6, seconds=0.5)
    ledgered.apply(job(pod("batch", "batch", container("until_empty")), parallelism=2))
    ledgered.kubectl("wait", "job/batch", "--for=condition=Complete", "--timeout=60s", timeout=70.0)
    pods = ledgered.items("pods", "-l", "app=batch")
    assert [body["status"]["phase"] for body in pods] == ["Succeeded", "Succeeded"]
    summary = ledgered.ledger("batch").summary()
    assert (summary["handled"], summary["lost"], summary["redelivered"]) == (6, 0, 0)
    for body in pods:
        ledgered.wait_stopped(body["metadata"]["uid"])


#: When a pod is deleted: as soon as this can be said of it.
_STAGES: dict[str, Callable[[Body], bool]] = {
    "created": lambda _: True,
    "scheduled": lambda body: "nodeName" in body["spec"],
    "sidecar-runs": lambda body: any("running" in one["state"] for one in _statuses(body, "initContainerStatuses")),
    "sidecar-started": lambda body: any(one.get("started") for one in _statuses(body, "initContainerStatuses")),
    "app-runs": lambda body: any("running" in one["state"] for one in _statuses(body, "containerStatuses")),
}


#: Where the kubelet may send SIGTERM within the first milliseconds of the sidecar's process. The first process of a
#: container does not hear of a signal before it has blocked it or has a handler; its pod stays for its grace period.
_UNHEARD = {"created", "scheduled"}


def _statuses(body: Body, kind: str) -> list[Body]:
    found: list[Body] = body["status"].get(kind, [])
    return found


def test_a_pod_that_is_deleted_while_it_starts_leaves_nothing_behind(ledgered: LedgeredShop) -> None:
    ledgered.patient_queues("early")
    ledgered.send_to("early", 10, seconds=1)
    stages = {f"{stage}-{number}": stage for stage in _STAGES for number in range(2)}
    # An app that gets SIGTERM before it has a handler never hears of it; these are told to drain as soon as they ask.
    ledgered.apply(
        *(
            pod(name, "early", grace=20 if stage in _UNHEARD else _LONG_GRACE, annotations=_BRIEF)
            for name, stage in stages.items()
        )
    )
    uids = ledgered.uids(stages)
    left = set(stages)

    def delete_those_due() -> bool:
        bodies = {body["metadata"]["name"]: body for body in ledgered.items("pods")}
        due = {name for name in left if _STAGES[stages[name]](bodies[name])}
        if due:
            ledgered.kubectl("delete", "pods", *due, "--wait=false")
        left.difference_update(due)
        return not left

    eventually("every pod is deleted at its stage", delete_those_due, within=60.0)
    # None of those whose sidecar runs stays for its grace period.
    ledgered.wait_gone(uids.values(), within=60.0)

    def stopped() -> bool:
        # Many of them never got as far as having one.
        return all(worker.status == "stopped" for uid in uids.values() for worker in ledgered.workers(uid))

    eventually("their workers are stopped", stopped, within=30.0)
    ledgered.start(pod("late", "early", container(environment={"CONCURRENCY": "8"})))
    ledgered.wait_done("early", within=60.0)
    summary = ledgered.ledger("early").summary()
    assert (summary["handled"], summary["lost"], summary["redelivered"]) == (10, 0, 0)
