"""A message that takes the process of whoever handles it with it: it is given up, and takes nothing else with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import eventually
from tests.cluster.workloads import container, pod

if TYPE_CHECKING:
    from tests.cluster.ledgered import LedgeredShop

pytestmark = pytest.mark.timeout(300)

_QUEUE = "poison"
_PODS = 3
_OTHERS = 9
_REASON = re.compile(
    r"3 processes died while it held this, at last worker [0-9]+ \(poison-[0-9]\S*\): process died: "
    r"container app: OOMKilled \(137\)"
)


def test_a_message_that_takes_its_pods_with_it_is_given_up_and_says_why(ledgered: LedgeredShop) -> None:
    ledgered.patient_queues(_QUEUE)
    app = container(environment={"CONCURRENCY": "4", "SIGN_SECONDS": "0.1"})
    ledgered.start(*(pod(f"{_QUEUE}-{number}", _QUEUE, app) for number in range(1, _PODS + 1)))
    ledgered.send_to(_QUEUE, 1, seconds=1, mishap="out of memory", always=True)
    ledgered.send_to(_QUEUE, _OTHERS, seconds=2)

    def letter() -> str | None:
        return ledgered.query(
            "SELECT m.dead_reason FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id "
            f"WHERE q.queue_name = '{_QUEUE}' AND m.dead_reason LIKE '%: container %'"
        )

    reason = eventually("the poison is a dead letter that says how the container ended", letter, within=120.0)
    assert _REASON.fullmatch(reason.strip()), reason
    ledgered.wait_done(_QUEUE, within=60.0)
    done = ledgered.number(
        "SELECT count(*) FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id "
        f"WHERE q.queue_name = '{_QUEUE}' AND m.archived_at IS NOT NULL AND m.dead_reason IS NULL"
    )
    assert done == _OTHERS, "it took no other with it"
