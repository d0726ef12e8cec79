"""Many deaths of each cause at different moments, for the table of delays: others have at once what the dead held.

Leases and heartbeats last for ten minutes here, so only who knows of a death can free anything.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.direct import Direct
from tests.cluster.shop import eventually
from tests.cluster.workloads import container, controlled, pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.delays import Delays
    from tests.cluster.ledgered import LedgeredShop
    from tests.cluster.workloads import Body

pytestmark = pytest.mark.timeout(400)

#: Of each cause.
_DEATHS = 10
#: Enough that the others have hands free while some wait for the kubelet, which starts a container the later the more
#: often it has died.
_PODS = 5
#: Enough for all that is sent at a time in one pod, and signs of life that tell the time of a death.
_WIDE = {"CONCURRENCY": "4", "SIGN_SECONDS": "0.1"}
_FORCED = "forced"
#: What happens to processes, by the queue whose messages bring it about.
_MISHAPS = {"exit": "exit", "out-of-memory": "out of memory"}
#: What is sent at a time: the first one kills its process, or all are held by pods of which one is deleted.
_BATCHES: dict[str, list[Body]] = {
    **{queue: [{"seconds": 1, "mishap": mishap}, *[{"seconds": 2}] * 3] for queue, mishap in _MISHAPS.items()},
    _FORCED: [{"seconds": 3}] * 4,
}
_STATE = """
SELECT json_build_object('now', extract(epoch FROM clock_timestamp()), 'queues', json_object_agg(q.queue_name,
    json_build_object(
        'left', (SELECT count(*) FROM pgqrs_messages m WHERE m.queue_id = q.id AND m.archived_at IS NULL),
        'hands', (SELECT coalesce(json_object_agg(h.pod, h.handlers), '{}') FROM (
            SELECT e.pod, count(*) AS handlers FROM ledger e JOIN pgqrs_messages m ON m.id = e.message_id
            WHERE m.queue_id = q.id AND m.archived_at IS NULL AND e.ended_at IS NULL GROUP BY e.pod) h))))
FROM pgqrs_queues q
"""


class _Deaths:
    """Lets the next process of each queue die once the messages of the one before are done."""

    def __init__(self, ledgered: LedgeredShop, api: Direct) -> None:
        self._ledgered = ledgered
        self._api = api
        self._to_come = dict.fromkeys(_BATCHES, _DEATHS)
        #: Whether the pod that is to be deleted still has to be chosen.
        self._choosing = False
        #: When each pod was deleted, by the database's clock, a moment before it was.
        self.deleted_at: dict[str, float] = {}

    def step(self) -> bool:
        """Do what is due; tell whether that was all."""
        state = json.loads(self._ledgered.query(_STATE))
        for queue, at in state["queues"].items():
            if not at["left"] and self._to_come[queue]:
                self._ledgered.send_together(queue, _BATCHES[queue])
                if queue == _FORCED:
                    self._choosing = True
                else:
                    self._to_come[queue] -= 1
            elif queue == _FORCED and self._choosing and sum(at["hands"].values()) == len(_BATCHES[queue]):
                self._delete(max(at["hands"], key=lambda pod: at["hands"][pod]), state["now"])
        return not any(self._to_come.values()) and not any(at["left"] for at in state["queues"].values())

    def _delete(self, pod: str, now: float) -> None:
        """Delete a pod by force: the API server forgets it at once."""
        self._choosing = False
        self._to_come[_FORCED] -= 1
        self.deleted_at[pod] = now
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        self._api.insist("DELETE", self._api.pod(pod), options)


@pytest.fixture
def api(ledgered: LedgeredShop) -> Iterator[Direct]:
    with ledgered.installation.cluster.proxy() as port:
        yield Direct(port, ledgered.namespace)


def test_what_dead_processes_held_is_in_other_hands(ledgered: LedgeredShop, api: Direct, delays: Delays) -> None:
    ledgered.patient_queues(*_BATCHES)
    app = container(environment=_WIDE)
    pods = [pod(f"{queue}-{number}", queue, app) for queue in _MISHAPS for number in range(_PODS)]
    stubborn = pod(_FORCED, _FORCED, container("ignores_sigterm", environment=_WIDE))
    ledgered.apply(*pods, controlled("Deployment", stubborn, replicas=_PODS))
    ledgered.wait_ready(*(body["metadata"]["name"] for body in pods))
    ledgered.kubectl("rollout", "status", f"deployment/{_FORCED}", "--timeout=90s", timeout=100.0)

    deaths = _Deaths(ledgered, api)
    eventually("all have died, and what they held is done", deaths.step, within=200.0)

    for queue, batch in _BATCHES.items():
        ledger = ledgered.ledger(queue)
        found = ledger.deaths(since=deaths.deleted_at)
        delays.add(queue.replace("-", " "), found)
        assert len(found) == _DEATHS
        summary = ledger.summary()
        assert summary["handled"] == summary["sent"] >= _DEATHS * len(batch)
        assert (summary["lost"], summary["not_archived"], summary["twice"]) == (0, 0, 0)
