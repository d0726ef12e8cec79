"""Processes and pods that die in the middle of their work: others have it at once, and the pod works on.

Leases and heartbeats last for ten minutes here, so only who knows of a death can free anything. A process that dies
holds several messages; another pod of the same queue has hands free for all of them.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.cluster.nodes import SIDECAR
from tests.cluster.shop import eventually
from tests.cluster.workloads import container, pod
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from tests.cluster.delays import Delays
    from tests.cluster.ledgered import LedgeredShop, WorkerRow
    from tests.cluster.nodes import Nodes
    from tests.cluster.workloads import Body

pytestmark = pytest.mark.timeout(400)

#: Enough for all messages of a queue in one pod, and signs of life that tell the time of a death.
_WIDE = {"CONCURRENCY": "12", "SIGN_SECONDS": "0.1"}
_MESSAGES = 10
#: The queues whose first message kills its process, and what the kubelet then says of the container.
_MISHAPS = {"exit": ("Error", 3), "out-of-memory": ("OOMKilled", 137)}
#: The containers of the pod where one becomes ill.
_TWO = ("app", "second")
_ASK = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9190/started', timeout=1)"
_PODS = [
    *(pod(f"{queue}-{number}", queue, container(environment=_WIDE)) for queue in _MISHAPS for number in (1, 2)),
    *(pod(f"forced-{number}", "forced", container("ignores_sigterm", environment=_WIDE)) for number in (1, 2)),
    pod("unhealthy-1", "unhealthy", *(container(name=name, probed=True) for name in _TWO)),
    pod("orphaned", "orphaned", container("dies_of_sigterm", environment={"CONCURRENCY": "4"})),
]


@pytest.fixture(scope="module")
def uids(ledgered: LedgeredShop) -> dict[str, str]:
    """Let all pods start, each test waits for its own; give their uids by their names."""
    ledgered.patient_queues(*_MISHAPS, "forced", "unhealthy", "orphaned")
    ledgered.apply(*_PODS)
    return ledgered.uids(body["metadata"]["name"] for body in _PODS)


def _restarted(ledgered: LedgeredShop, queue: str) -> tuple[str, str]:
    """Wait until a container of one of a queue's pods was started again; name the pod and the container."""

    def restarted() -> tuple[str, str] | None:
        for body in ledgered.items("pods", "-l", f"pgqrs.io/queue={queue}"):
            for status in body["status"].get("containerStatuses", ()):
                if status["restartCount"] and "running" in status["state"]:
                    return body["metadata"]["name"], status["name"]
        return None

    return eventually(f"a container of {queue} runs again", restarted, within=60.0)


def _works_again(ledgered: LedgeredShop, queue: str, uid: str, container: str = "app") -> list[WorkerRow]:
    """Send messages until a worker that came after a container's first one has handled some; give its workers."""

    def handled() -> list[WorkerRow] | None:
        workers = [worker for worker in ledgered.workers(uid) if worker.container == container]
        if any(worker.handled for worker in workers[1:]):
            return workers
        # Another pod or container may be the faster one.
        ledgered.send_to(queue, 24, seconds=0.3)
        return None

    return eventually(f"the container of {queue} handles messages again", handled, within=60.0)


def _busiest(ledgered: LedgeredShop, uids: dict[str, str]) -> str:
    """Wait until all messages are in hands, and name the pod that has the most of them."""

    def busiest() -> str | None:
        running = ledgered.running()
        counts = {name: running.get(f"{uid}/app", 0) for name, uid in uids.items()}
        return max(counts, key=lambda name: counts[name]) if sum(counts.values()) == _MESSAGES else None

    return eventually("all messages are in hands", busiest, within=30.0)


def _status(ledgered: LedgeredShop, pod: str, container: str = "app") -> Body:
    status = ledgered.get("pod", pod)["status"]
    found: dict[str, Body] = {
        one["name"]: one for kind in ("containerStatuses", "initContainerStatuses") for one in status[kind]
    }
    return found[container]


def _answers(ledgered: LedgeredShop, pod: str) -> bool:
    """Tell whether the sidecar of a pod answers who asks it from its pod."""
    try:
        ledgered.kubectl("exec", "-i", pod, "-c", "app", "--", "python", "-", stdin=_ASK)
    except ClusterError:
        return False
    return True


@pytest.mark.parametrize(("queue", "end"), _MISHAPS.items())
def test_a_process_that_dies_is_replaced_in_its_pod(
    queue: str, end: tuple[str, int], uids: dict[str, str], ledgered: LedgeredShop, delays: Delays
) -> None:
    ledgered.wait_ready(f"{queue}-1", f"{queue}-2")
    ledgered.send_to(queue, 1, seconds=4, mishap=queue.replace("-", " "))
    ledgered.send_to(queue, _MESSAGES - 1, seconds=6)
    name, _ = _restarted(ledgered, queue)
    ledgered.wait_done(queue, within=60.0)
    ledger = ledgered.ledger(queue)
    delays.add(queue.replace("-", " "), ledger.deaths())
    summary = ledger.summary()
    assert summary["handled"] == summary["sent"] == _MESSAGES
    assert (summary["lost"], summary["not_archived"], summary["twice"]) == (0, 0, 0)
    assert summary["redelivered"] > 0

    workers = _works_again(ledgered, queue, uids[name])
    reason, code = end
    assert _status(ledgered, name)["lastState"]["terminated"]["reason"] == reason
    first, *later = workers
    assert first.status == "stopped"
    # The sidecar knows that it died, and the operator a moment later why.
    why = f"process died: container app: {reason} ({code})"
    eventually(f"worker {first.id} says why", lambda: ledgered.workers(uids[name])[0].reason == why, within=30.0)
    assert [worker.status for worker in later if worker.handled] == ["ready"]
    assert not any(worker.terminating for worker in workers)


def test_others_get_what_a_pod_held_that_was_deleted_by_force(
    uids: dict[str, str], ledgered: LedgeredShop, nodes: Nodes, delays: Delays
) -> None:
    ledgered.wait_ready("forced-1", "forced-2")
    ledgered.send_to("forced", _MESSAGES, seconds=8)
    name = _busiest(ledgered, {pod: uids[pod] for pod in ("forced-1", "forced-2")})
    # The kubelet gives a sidecar a moment to free what is left; on a node that is lost it has none.
    assert nodes.signal(SIDECAR, signal.SIGSTOP, pod=uids[name])
    eventually("the sidecar stands still", lambda: not _answers(ledgered, name), within=10.0)
    # Nobody drains: the API server forgets the pod at once. Its processes go on for a moment, and say so.
    since = {name: float(ledgered.query("SELECT extract(epoch FROM clock_timestamp())"))}
    ledgered.kubectl("delete", "pod", name, "--grace-period=0", "--force", "--wait=false")
    ledgered.wait_done("forced", within=60.0)
    # Not the end of its PgqrsWorker, which waits for a drain first.
    reasons = [worker.reason or "" for worker in ledgered.wait_stopped(uids[name])]
    assert [reason for reason in reasons if not reason.startswith("pod deleted")] == []
    ledger = ledgered.ledger("forced")
    delays.add("forced", ledger.deaths(since=since))
    summary = ledger.summary()
    assert summary["handled"] == summary["sent"] == _MESSAGES
    assert (summary["lost"], summary["not_archived"], summary["twice"]) == (0, 0, 0)
    assert summary["redelivered"] > 0


def test_a_container_that_is_restarted_by_its_probe_drains_alone_and_works_on(
    uids: dict[str, str], ledgered: LedgeredShop
) -> None:
    name, queue = "unhealthy-1", "unhealthy"
    ledgered.wait_ready(name)
    # Either of the two containers may get it, and becomes ill.
    ledgered.send_to(queue, 1, seconds=6, mishap="unhealthy")
    ledgered.send_to(queue, 15, seconds=3)
    _, ill = _restarted(ledgered, queue)
    ledgered.wait_done(queue, within=60.0)
    summary = ledgered.ledger(queue).summary()
    assert (summary["sent"], summary["handled"], summary["redelivered"]) == (16, 16, 0)
    assert (summary["lost"], summary["not_archived"]) == (0, 0)

    first, *later = _works_again(ledgered, queue, uids[name], ill)
    assert _status(ledgered, name, ill)["restartCount"] == 1
    assert first.status == "stopped"
    assert first.handled > 0
    assert [worker.status for worker in later if worker.handled] == ["ready"]
    # The other container, and the sidecar, which both have in common, went on.
    workers = ledgered.workers(uids[name])
    (other,) = (container for container in _TWO if container != ill)
    (went_on,) = (worker for worker in workers if worker.container == other)
    assert (went_on.status, _status(ledgered, name, other)["restartCount"]) == ("ready", 0)
    assert went_on.handled > 0
    assert not any(worker.terminating for worker in workers)
    assert _status(ledgered, name, "pgqrs-sidecar")["restartCount"] == 0


def test_a_sidecar_that_is_killed_finds_its_processes_again(
    uids: dict[str, str], ledgered: LedgeredShop, nodes: Nodes
) -> None:
    name, uid = "orphaned", uids["orphaned"]
    ledgered.wait_ready(name)
    ledgered.send_to(name, 4, seconds=15)
    ledgered.wait_at_work([uid])
    before = ledgered.workers(uid)
    assert nodes.signal(SIDECAR, signal.SIGKILL, pod=uid)

    def again() -> bool:
        status = _status(ledgered, name, "pgqrs-sidecar")
        return bool(status["restartCount"]) and status["ready"]

    eventually("the sidecar runs again", again, within=30.0)
    ledgered.wait_done(name, within=60.0)
    # It is heard of when it is to drain, although its app drops everything at SIGTERM.
    ledgered.send_to(name, 4, seconds=4)
    ledgered.wait_at_work([uid])
    ledgered.kubectl("delete", "pod", name, "--wait=false")
    ledgered.wait_gone([uid], within=60.0)
    after = ledgered.wait_stopped(uid)
    assert [worker.handled for worker in after if worker.handled] == [8]
    assert {worker.id for worker in after if worker.handled} <= {worker.id for worker in before}
    summary = ledgered.ledger(name).summary()
    assert (summary["sent"], summary["handled"], summary["redelivered"]) == (8, 8, 0)
