"""Two operators, of which the leader is killed, or freezes: the other one goes on, and the pods notice nothing."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import IGNORES_SIGTERM, eventually
from tests.support.installation import RELEASE, SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.shop import Shop
    from tests.support.installation import Installation

pytestmark = pytest.mark.timeout(300)

_DEPLOYMENT = f"deployment/{RELEASE}-operator"
#: The shell that runs this has another command line; an image without `pidof` has /proc.
_SIGNAL = """
for process in /proc/[0-9]*; do
    case $(tr '\\0' ' ' < $process/cmdline) in /opt/pgqrs/bin/python*run*) kill -{} ${{process#/proc/}} ;; esac
done
"""


@pytest.fixture(scope="module")
def two(installation: Installation) -> Iterator[Installation]:
    """Two operators whose processes take signals from inside of their pods: none of them is the first of its pod."""
    _patch(installation, shared=True)
    yield installation
    _patch(installation, shared=None)


def _patch(installation: Installation, *, shared: bool | None) -> None:
    kubectl = installation.cluster.kubectl
    patch = json.dumps({"spec": {"replicas": 2, "template": {"spec": {"shareProcessNamespace": shared}}}})
    kubectl("-n", SYSTEM, "patch", _DEPLOYMENT, "--type=merge", "-p", patch)
    kubectl("-n", SYSTEM, "rollout", "status", _DEPLOYMENT, "--timeout=90s", timeout=100)


def _leader(installation: Installation) -> str:
    """Name the pod that holds the Lease; empty while none does."""
    path = "-o=jsonpath={.spec.holderIdentity}"
    return installation.cluster.kubectl("-n", SYSTEM, "get", "lease", f"{RELEASE}-operator", path).partition("_")[0]


def _settled(installation: Installation) -> str:
    """Wait until one of the pods that are meant to be there leads, and give its name."""

    def settled() -> str | None:
        label = "app.kubernetes.io/component=operator"
        found = json.loads(installation.cluster.kubectl("-n", SYSTEM, "get", "pods", "-l", label, "-o", "json"))
        names = [pod["metadata"]["name"] for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]
        leader = _leader(installation)
        return leader if len(names) == 2 and leader in names else None

    return eventually("one of two operators leads", settled, within=60.0)


def _signal(installation: Installation, pod: str, name: str) -> None:
    installation.cluster.kubectl("-n", SYSTEM, "exec", pod, "--", "sh", "-c", _SIGNAL.format(name))


def _follows(shop: Shop, limit: int) -> None:
    """Change a queue, and wait until its row follows."""
    patch = json.dumps({"spec": {"maxReads": limit}})
    shop.kubectl("patch", "pgqrsqueue", "emails", "--type=merge", "-p", patch)
    eventually("the row follows", lambda: shop.query("SELECT read_limit FROM pgqrs_queues") == str(limit), within=40.0)


def _say(capsys: pytest.CaptureFixture[str], what: str, since: float) -> None:
    with capsys.disabled():
        print(f"\n{what}: {time.monotonic() - since:.1f} s (promised: 15 s)")


def test_a_leader_that_is_killed_is_replaced(two: Installation, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.ready_queue(leaseDuration="10m")
    shop.deploy(replicas=2, shell=IGNORES_SIGTERM, SEND_SECONDS="0.2")
    leader = _settled(two)
    shop.send(100)
    since = time.monotonic()
    _signal(two, leader, "KILL")
    _follows(shop, 7)
    _say(capsys, "from the death of the leader to the next change of a row", since)
    shop.wait_handled(100, within=60)
    assert shop.redelivered() == 0


def test_a_leader_that_freezes_is_replaced_and_ends_when_it_wakes(
    two: Installation, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.ready_queue(leaseDuration="10m")
    shop.deploy(replicas=2, shell=IGNORES_SIGTERM, SEND_SECONDS="0.2")
    frozen = _settled(two)
    since = time.monotonic()
    _signal(two, frozen, "STOP")
    try:
        shop.send(100)
        eventually("another one leads", lambda: _leader(two) not in {"", frozen}, within=40.0)
        _say(capsys, "from the leader's standstill to the next leader", since)
        _follows(shop, 9)
        _say(capsys, "from the leader's standstill to the next change of a row", since)
    finally:
        _signal(two, frozen, "CONT")
    logs = ("-n", SYSTEM, "logs", frozen, "--previous")
    eventually("it has ended", lambda: _restarts(two, frozen), within=60.0)
    assert "LeadershipLostError" in two.cluster.kubectl(*logs)
    assert _leader(two) not in {"", frozen}
    assert shop.query("SELECT read_limit FROM pgqrs_queues") == "9"
    shop.wait_handled(100, within=60)
    assert shop.redelivered() == 0


def _restarts(installation: Installation, pod: str) -> int:
    path = "-o=jsonpath={.status.containerStatuses[0].restartCount}"
    return int(installation.cluster.kubectl("-n", SYSTEM, "get", "pod", pod, path) or 0)
