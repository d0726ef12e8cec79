"""What autoscalers are told through the Service of two operators, of which one knows it, and which pods are taken."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.nodes import OPERATOR
from tests.cluster.shop import eventually
from tests.cluster.workloads import SLEEPER, container, controlled, pod
from tests.support.installation import RELEASE, SYSTEM, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.ledgered import LedgeredShop
    from tests.cluster.nodes import Nodes
    from tests.cluster.operators import Operators

pytestmark = pytest.mark.timeout(300)

_QUEUE = "scaled"
_TIMES = 20
#: Asks as KEDA does: a connection for each question, and it goes where it is led. Prints what it was told, and by whom.
_ASK = """
import json, sys, urllib.error, urllib.request

told = []
for _ in range(int(sys.argv[2])):
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
            told.append({"status": answer.status, "led_on": answer.url != sys.argv[1], **json.load(answer)})
    except urllib.error.HTTPError as error:
        told.append({"status": error.code})
    except OSError:
        told.append({"status": 0})
print(json.dumps(told))
"""


def _ask(ledgered: LedgeredShop, name: str = _QUEUE) -> list[dict[str, Any]]:
    url = f"http://{RELEASE}-operator.{SYSTEM}:8080/scale/{ledgered.namespace}/{name}"
    words = ("exec", "-i", "asker", "-c", "app", "--", "python", "-", url, str(_TIMES))
    found: list[dict[str, Any]] = json.loads(ledgered.kubectl(*words, stdin=_ASK, timeout=120.0))
    return found


def _numbers(told: list[dict[str, Any]]) -> set[tuple[int, ...]]:
    """Give the different answers, as status, depth, messages in flight and both together."""
    return {(one["status"], *(one[key] for key in ("depth", "inFlight", "total") if key in one)) for one in told}


def _wait_told(ledgered: LedgeredShop, depth: int, in_flight: int) -> None:
    """Wait until everybody who asks is told these numbers."""
    wanted = {(200, depth, in_flight, depth + in_flight)}
    eventually(f"all are told {wanted}", lambda: _numbers(_ask(ledgered)) == wanted, within=60.0)


def test_every_answer_through_the_service_is_right_or_none(
    ledgered: LedgeredShop, operators: Operators, nodes: Nodes
) -> None:
    ledgered.patient_queues(_QUEUE)
    ledgered.start(pod("asker", _QUEUE, container(command=SLEEPER)))
    ledgered.send_to(_QUEUE, 7)
    _wait_told(ledgered, 7, 0)
    told = _ask(ledgered)
    assert _numbers(told) == {(200, 7, 0, 7)}
    # Either replica is met half of the times: that one of them is not is a one in a million.
    assert {one["led_on"] for one in told} == {False, True}

    ledgered.send_to(_QUEUE, 5)
    ledgered.query(
        "UPDATE pgqrs_messages SET vt = now() + interval '10 minutes', read_ct = 1, dequeued_at = now(), "
        "consumer_worker_id = (SELECT id FROM pgqrs_workers WHERE pod_name = 'asker') WHERE id IN ("
        "SELECT m.id FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id "
        f"WHERE q.queue_name = '{_QUEUE}' LIMIT 3)"
    )
    _wait_told(ledgered, 9, 3)
    assert _numbers(_ask(ledgered)) == {(200, 9, 3, 12)}
    assert _numbers(_ask(ledgered, "no-such-queue")) == {(404,)}

    # While nobody leads there may be no answer, and never a wrong one.
    leader = operators.settled()
    assert nodes.signal(OPERATOR, signal.SIGKILL, pod=operators.uids()[leader])
    for _ in range(3):
        assert _numbers(_ask(ledgered)) <= {(200, 9, 3, 12), (503,), (0,)}
    _wait_told(ledgered, 9, 3)


_COSTLY = "costly"
_COST = "controller.kubernetes.io/pod-deletion-cost"


@pytest.fixture
def costing(ledgered: LedgeredShop) -> Iterator[None]:
    """Let the operator say what the deletion of pods costs."""
    ledgered.installation.install({**VALUES, "operator": {"podDeletionCost": True}})
    yield
    ledgered.installation.install(VALUES)


def _costs(ledgered: LedgeredShop) -> dict[str, str | None]:
    """Give what the deletion of each pod that goes on costs, by its name."""
    return {
        body["metadata"]["name"]: body["metadata"].get("annotations", {}).get(_COST)
        for body in ledgered.items("pods", "-l", f"app={_COSTLY}")
        if "deletionTimestamp" not in body["metadata"]
    }


@pytest.mark.usefixtures("costing")
def test_scaling_down_takes_the_idle_pod(ledgered: LedgeredShop) -> None:
    ledgered.patient_queues(_COSTLY)
    app = container("dies_of_sigterm", environment={"CONCURRENCY": "1"})
    ledgered.apply(controlled("Deployment", pod(_COSTLY, _COSTLY, app), replicas=2))
    ledgered.kubectl("rollout", "status", f"deployment/{_COSTLY}", "--timeout=90s", timeout=100.0)
    uids = ledgered.uids(_costs(ledgered))
    # Longer than the operator takes to see it, and to say so.
    ledgered.send_to(_COSTLY, 1, seconds=15)
    busy = eventually(
        "one is busy", lambda: next((name for name in uids if _runs(ledgered, uids[name])), None), within=20.0
    )
    (idle,) = uids.keys() - {busy}
    eventually("the busy one costs", lambda: _costs(ledgered) == {busy: "100", idle: None}, within=20.0)

    ledgered.kubectl("scale", f"deployment/{_COSTLY}", "--replicas=1")
    assert _runs(ledgered, uids[busy])
    ledgered.wait_gone([uids[idle]], within=60.0)
    assert _costs(ledgered) == {busy: "100"}
    ledgered.wait_done(_COSTLY, within=60.0)
    assert ledgered.uid(busy) == uids[busy]
    summary = ledgered.ledger(_COSTLY).summary()
    assert (summary["sent"], summary["handled"], summary["lost"], summary["redelivered"]) == (1, 1, 0, 0)


def _runs(ledgered: LedgeredShop, uid: str) -> bool:
    return f"{uid}/app" in ledgered.running()
