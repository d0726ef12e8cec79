"""Pods that are deleted, each with another kind of app: what their handlers hold is finished, and nothing comes twice.

All of them end at the same time, because most of what these tests do is wait.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import eventually
from tests.cluster.workloads import SLEEPER, container, job, pod
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.ledgered import LedgeredShop, Work, WorkerRow
    from tests.cluster.workloads import Body

pytestmark = pytest.mark.timeout(400)

_BRIEF = {"pgqrs.io/drain-seconds": "15"}
#: Longer than any of these pods may take to be gone.
_LONG_GRACE = 120

#: Grace periods and containers of pods that take their messages from the queue `common`; each handler takes 4 s.
_KINDS = {
    "runs": (_LONG_GRACE, [container("run")]),
    "handles-sigterm": (_LONG_GRACE, [container("handles_sigterm")]),
    "ignores-sigterm": (20, [container("ignores_sigterm")]),
    "dies-of-sigterm": (20, [container("dies_of_sigterm")]),
    "two-apps": (_LONG_GRACE, [container("dies_of_sigterm"), container("run", name="second")]),
    "beside-another": (_LONG_GRACE, [container("dies_of_sigterm"), container(name="other", command=SLEEPER)]),
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
class End:
    """What is left of a pod."""

    work: Work
    workers: list[WorkerRow]


@pytest.fixture(scope="module")
def ends(ledgered: LedgeredShop) -> dict[str, End]:
    """Delete a pod of each kind while its handlers run."""
    queues = ("common", *_OWN)
    for queue in queues:
        # Nobody gets a message because a lease ran out.
        ledgered.declare(queue, leaseDuration="10m", heartbeatTimeout="10m")
    for queue in queues:
        ledgered.reason("InSync", name=queue, within=20.0)
    own = [body for _, body in _OWN.values()]
    ledgered.start(*_COMMON.values(), *own, _SLEEPER, _SPARE)
    uids = ledgered.uids([*_COMMON, *_OWN, "sleeper"])
    for queue, (seconds, _) in _OWN.items():
        ledgered.send_to(queue, 1, seconds=seconds)
    ledgered.send_to("common", 60, seconds=4)
    ledgered.wait_at_work([uids[name] for name in (*_COMMON, *_OWN)])
    ledgered.wait_at_work([uids["two-apps"]], containers=2)

    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"}}
    path = f"/api/v1/namespaces/{ledgered.namespace}/pods/evicted/eviction"
    ledgered.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    ledgered.kubectl("delete", "pods", *(name for name in uids if name != "evicted"), "--wait=false")

    ledgered.wait_gone([uid for name, uid in uids.items() if name not in _OWN], within=60.0)
    ledgered.wait_gone(uids.values(), within=60.0)
    ledgered.wait_done("common", within=60.0)
    return {
        name: End(work=ledgered.work(uid), workers=ledgered.wait_stopped(uid, within=30.0))
        for name, uid in uids.items()
    }


@pytest.mark.parametrize("name", [*_COMMON, *_OWN])
def test_a_deleted_pod_finishes_what_its_handlers_hold(name: str, ends: dict[str, End]) -> None:
    work = ends[name].work
    assert work.began > 0
    assert work.ended == work.began
    assert work.redelivered == 0


def test_both_apps_of_a_pod_finish_theirs(ends: dict[str, End]) -> None:
    finished = {worker.container for worker in ends["two-apps"].workers if worker.handled}
    assert finished == {"app", "second"}


def test_a_pod_whose_app_knows_nothing_of_pgqrs_ends_too(ends: dict[str, End]) -> None:
    # It was gone long before its grace period was.
    assert ends["sleeper"].work.began == 0
    assert [worker.reason for worker in ends["sleeper"].workers] == ["pod ended"]


@pytest.mark.parametrize("queue", ["common", *_OWN])
def test_nothing_is_lost(queue: str, ends: dict[str, End], ledgered: LedgeredShop) -> None:
    assert ends
    summary = ledgered.ledger(queue).summary()
    assert summary["sent"] == summary["handled"]
    assert (summary["lost"], summary["not_archived"], summary["redelivered"]) == (0, 0, 0)


def test_a_grace_period_that_is_too_short_is_raised_with_a_warning(
    ends: dict[str, End], ledgered: LedgeredShop
) -> None:
    assert ends
    body = json.dumps(_OWN["short-grace"][1])
    dry = ("apply", "--dry-run=server", "-f", "-")
    raised = json.loads(ledgered.kubectl(*dry, "-o", "json", stdin=body))["spec"]["terminationGracePeriodSeconds"]
    assert raised >= 15 + 5
    with pytest.raises(ClusterError, match=f"Warning: pgqrs: terminationGracePeriodSeconds .*{raised}"):
        ledgered.kubectl(*dry, "--warnings-as-errors", stdin=body)


def test_a_job_completes(ledgered: LedgeredShop) -> None:
    ledgered.ready_queue("batch", leaseDuration="10m", heartbeatTimeout="10m")
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


def _statuses(body: Body, kind: str) -> list[Body]:
    found: list[Body] = body["status"].get(kind, [])
    return found


def test_a_pod_that_is_deleted_while_it_starts_leaves_nothing_behind(ledgered: LedgeredShop) -> None:
    ledgered.ready_queue("early", leaseDuration="10m", heartbeatTimeout="10m")
    ledgered.send_to("early", 10, seconds=1)
    stages = {f"{stage}-{number}": stage for stage in _STAGES for number in range(2)}
    modes = {0: "run", 1: "dies_of_sigterm"}
    ledgered.apply(
        *(pod(name, "early", container(modes[int(name[-1])]), grace=_LONG_GRACE, annotations=_BRIEF) for name in stages)
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
    # None of them stays for its grace period.
    ledgered.wait_gone(uids.values(), within=60.0)
    for uid in uids.values():
        ledgered.wait_stopped(uid, within=30.0)
    ledgered.start(pod("late", "early", container(environment={"CONCURRENCY": "8"})))
    ledgered.wait_done("early", within=60.0)
    summary = ledgered.ledger("early").summary()
    assert (summary["handled"], summary["lost"], summary["redelivered"]) == (10, 0, 0)
