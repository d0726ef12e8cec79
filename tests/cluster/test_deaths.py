"""Processes and pods that die in the middle of their work: others have it at once, and the pod works on.

Leases and heartbeats last for ten minutes here, so only who knows of a death can free anything. A process that dies
holds several messages; another pod of the same queue has hands free for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.shop import eventually
from tests.cluster.workloads import container, pod

if TYPE_CHECKING:
    from tests.cluster.delays import Delays
    from tests.cluster.ledgered import LedgeredShop, WorkerRow

pytestmark = pytest.mark.timeout(400)

#: Enough for all messages of a queue in one pod, and signs of life that tell the time of a death.
_WIDE = {"CONCURRENCY": "12", "SIGN_SECONDS": "0.1"}
_MESSAGES = 10
#: The queues whose first message kills its process, and what the kubelet then says of the container.
_MISHAPS = {"exit": "Error", "out-of-memory": "OOMKilled"}


@dataclass(frozen=True, slots=True)
class Death:
    """A pod whose process died, when its container works again."""

    status: dict[str, Any]
    #: Before and after.
    workers: list[WorkerRow]
    #: Of the messages that were sent before the death.
    summary: dict[str, int]


def _victim(ledgered: LedgeredShop, queue: str) -> str:
    """Wait until the container of one of a queue's pods was started again, and give the pod's name."""

    def restarted() -> str | None:
        for body in ledgered.items("pods", "-l", f"pgqrs.io/queue={queue}"):
            for status in body["status"].get("containerStatuses", ()):
                if status["restartCount"] and "running" in status["state"]:
                    return str(body["metadata"]["name"])
        return None

    return eventually(f"a container of {queue} runs again", restarted, within=60.0)


def _works_again(ledgered: LedgeredShop, queue: str, uid: str) -> list[WorkerRow]:
    """Send messages until a worker that came after the first one has handled some, and give the pod's workers."""

    def handled() -> list[WorkerRow] | None:
        workers = ledgered.workers(uid)
        if any(worker.handled for worker in workers[1:]):
            return workers
        # Another pod may be the faster one.
        ledgered.send_to(queue, 24, seconds=0.3)
        return None

    return eventually(f"the container of {queue} handles messages again", handled, within=60.0)


@pytest.fixture(scope="module")
def deaths(ledgered: LedgeredShop, delays: Delays) -> dict[str, Death]:
    """Let a process of each kind die while it has messages."""
    queues = (*_MISHAPS, "unhealthy", "forced")
    for queue in queues:
        ledgered.declare(queue, leaseDuration="10m", heartbeatTimeout="10m")
    for queue in queues:
        ledgered.reason("InSync", name=queue, within=20.0)
    pods = [pod(f"{queue}-{number}", queue, container(environment=_WIDE)) for queue in _MISHAPS for number in (1, 2)]
    pods += [pod(f"forced-{number}", "forced", container("ignores_sigterm", environment=_WIDE)) for number in (1, 2)]
    pods.append(pod("unhealthy-1", "unhealthy", container(probed=True)))
    ledgered.start(*pods)
    uids = ledgered.uids(body["metadata"]["name"] for body in pods)
    for queue in _MISHAPS:
        ledgered.send_to(queue, 1, seconds=4, mishap=queue.replace("-", " "))
        ledgered.send_to(queue, _MESSAGES - 1, seconds=6)
    ledgered.send_to("unhealthy", 1, seconds=6, mishap="unhealthy")
    ledgered.send_to("forced", _MESSAGES, seconds=8)

    forced = _busiest(ledgered, ("forced-1", "forced-2"), uids)
    # Nobody drains: the API server forgets the pod at once.
    ledgered.kubectl("delete", "pod", forced, "--grace-period=0", "--force", "--wait=false")
    ledgered.wait_done("forced", within=60.0)
    ledgered.wait_stopped(uids[forced])

    found = {}
    for queue in queues:
        ledgered.wait_done(queue, within=60.0)
        ledger = ledgered.ledger(queue)
        delays.add(queue.replace("-", " "), ledger.delays())
        name = forced if queue == "forced" else _victim(ledgered, queue)
        summary = ledger.summary()
        workers = ledgered.workers(uids[name]) if queue == "forced" else _works_again(ledgered, queue, uids[name])
        found[queue] = Death(status=ledgered.get("pod", name).get("status", {}), workers=workers, summary=summary)
    return found


def _busiest(ledgered: LedgeredShop, names: tuple[str, ...], uids: dict[str, str]) -> str:
    """Wait until all messages are in hands, and name the pod that has the most of them."""

    def busiest() -> str | None:
        running = ledgered.running()
        counts = {name: running.get(f"{uids[name]}/app", 0) for name in names}
        return max(names, key=lambda name: counts[name]) if sum(counts.values()) == _MESSAGES else None

    return eventually("all messages are in hands", busiest, within=30.0)


@pytest.mark.parametrize("queue", [*_MISHAPS, "unhealthy", "forced"])
def test_nothing_is_lost_when_a_process_dies(queue: str, deaths: dict[str, Death]) -> None:
    summary = deaths[queue].summary
    assert summary["handled"] == summary["sent"] == (1 if queue == "unhealthy" else _MESSAGES)
    assert (summary["lost"], summary["not_archived"], summary["twice"]) == (0, 0, 0)


@pytest.mark.parametrize("queue", [*_MISHAPS, "forced"])
def test_others_get_what_a_dead_process_held(queue: str, deaths: dict[str, Death]) -> None:
    assert deaths[queue].summary["redelivered"] > 0


@pytest.mark.parametrize(("queue", "reason"), _MISHAPS.items())
def test_a_process_that_dies_is_replaced_in_its_pod(queue: str, reason: str, deaths: dict[str, Death]) -> None:
    death = deaths[queue]
    (status,) = death.status["containerStatuses"]
    assert status["lastState"]["terminated"]["reason"] == reason
    first, *later = death.workers
    assert (first.status, first.reason) == ("stopped", "process died")
    assert [worker.status for worker in later if worker.handled] == ["ready"]
    assert not any(worker.terminating for worker in death.workers)


def test_a_container_that_is_restarted_by_its_probe_drains_alone_and_works_on(deaths: dict[str, Death]) -> None:
    death = deaths["unhealthy"]
    assert death.summary["redelivered"] == 0
    (status,) = death.status["containerStatuses"]
    assert status["restartCount"] == 1
    first, *later = death.workers
    assert (first.status, first.handled) == ("stopped", 1)
    assert [worker.status for worker in later if worker.handled] == ["ready"]
    assert not any(worker.terminating for worker in death.workers)
    # The sidecar, which all of the pod has in common, went on.
    (sidecar,) = death.status["initContainerStatuses"]
    assert sidecar["restartCount"] == 0
