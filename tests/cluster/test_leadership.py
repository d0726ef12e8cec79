"""Two operators, of which the leader is killed, or freezes: the other one goes on, and the pods notice nothing."""

from __future__ import annotations

import json
import signal
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.cluster.nodes import OPERATOR
from tests.cluster.shop import IGNORES_SIGTERM, eventually

if TYPE_CHECKING:
    from tests.cluster.nodes import Nodes
    from tests.cluster.operators import Operators
    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)

#: Who is dead is replaced within this time, in seconds.
_PROMISED = 15
#: Less than a second after the Lease has run out somebody looks at it.
_LOOK = 1


def _follows(shop: Shop, limit: int) -> None:
    """Change a queue, and wait until its row follows."""
    patch = json.dumps({"spec": {"maxReads": limit}})
    shop.kubectl("patch", "pgqrsqueue", "emails", "--type=merge", "-p", patch)
    eventually("the row follows", lambda: shop.query("SELECT read_limit FROM pgqrs_queues") == str(limit), within=40.0)


def _say(capsys: pytest.CaptureFixture[str], what: str, since: float) -> None:
    with capsys.disabled():
        print(f"\n{what}: {time.monotonic() - since:.1f} s (promised: {_PROMISED} s)")


def test_a_leader_that_is_killed_is_replaced(
    operators: Operators, nodes: Nodes, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.ready_queue(leaseDuration="10m")
    shop.deploy(replicas=2, shell=IGNORES_SIGTERM, SEND_SECONDS="0.2")
    leader = operators.settled()
    taken = operators.taken()
    shop.send(100)
    since = time.monotonic()
    assert nodes.signal(OPERATOR, signal.SIGKILL, pod=operators.uids()[leader])
    eventually("another process leads", lambda: operators.taken() > taken, within=40.0)
    _follows(shop, 7)
    _say(capsys, "from the death of the leader to the next change of a row", since)
    shop.wait_handled(100, within=60)
    assert shop.redelivered() == 0


def test_a_leader_that_freezes_is_replaced_and_ends_when_it_wakes(
    operators: Operators, nodes: Nodes, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.ready_queue(leaseDuration="10m")
    shop.deploy(replicas=2, shell=IGNORES_SIGTERM, SEND_SECONDS="0.2")
    frozen = operators.settled()
    uid = operators.uids()[frozen]
    since = time.monotonic()
    assert nodes.signal(OPERATOR, signal.SIGSTOP, pod=uid)
    try:
        shop.send(100)
        before, after = operators.handed_over(frozen, within=40.0)
        _say(capsys, "from the leader's standstill to the next leader", since)
        # How long that takes is said by the Lease itself; not how fast this machine is today.
        assert before["leaseDurationSeconds"] + _LOOK <= _PROMISED
        # Not a moment before it had run out, and by the first one that took it.
        span = datetime.fromisoformat(after["acquireTime"]) - datetime.fromisoformat(before["renewTime"])
        assert timedelta(seconds=before["leaseDurationSeconds"]) <= span < timedelta(seconds=_PROMISED)
        assert after["leaseTransitions"] == before["leaseTransitions"] + 1
        _follows(shop, 9)
        _say(capsys, "from the leader's standstill to the next change of a row", since)
    finally:
        assert nodes.signal(OPERATOR, signal.SIGCONT, pod=uid)
    eventually("it has ended", lambda: operators.restarts(frozen), within=60.0)
    assert "LeadershipLostError" in operators.last_words(frozen)
    assert operators.leader() not in {"", frozen}
    assert shop.query("SELECT read_limit FROM pgqrs_queues") == "9"
    shop.wait_handled(100, within=60)
    assert shop.redelivered() == 0
