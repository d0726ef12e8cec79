"""What somebody does to rows by hand comes back, with an Event and a number for Prometheus."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cluster.declared import STEADY, Declared
from tests.cluster.operators import Operators
from tests.cluster.shop import eventually

if TYPE_CHECKING:
    from tests.cluster.direct import Direct
    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)

#: Longer than a silent worker is in this test.
_PATIENT = {"heartbeatTimeout": "10m"}
_WITHIN_SECONDS = 30.0
_NUMBERS = re.compile(r"^(pgqrs_operator_\w+) (\S+)$", re.MULTILINE)
_DEPTHS = re.compile(r"^pgqrs_queue_messages\{(.*)\} (\S+)$", re.MULTILINE)
_REPAIRS = re.compile(r'^pgqrs_operator_drift_repairs_total\{kind="(\w+)"\} (\S+)$', re.MULTILINE)


def _told(shop: Shop, kind: str, name: str, reason: str) -> str:
    """Wait for a warning about a resource and give its message."""

    def found() -> str:
        about = f"type=Warning,reason={reason},involvedObject.kind={kind},involvedObject.name={name}"
        return shop.kubectl("get", "events", f"--field-selector={about}", "-o=jsonpath={.items[*].message}")

    return eventually(f"{kind} {name} has the Event {reason}", found, within=_WITHIN_SECONDS)


def test_rows_that_were_changed_or_deleted_by_hand_come_back(shop: Shop, api: Direct) -> None:
    operators = Operators(shop.installation)
    leader = operators.settled()

    def repairs() -> dict[str, float]:
        return {kind: float(count) for kind, count in _REPAIRS.findall(shop.installation.metrics(leader))}

    declared = Declared(shop, api)
    declared.first("emails", maxReads=7)
    declared.queue(STEADY, **_PATIENT)
    declared.wait_converged(within=_WITHIN_SECONDS)
    declared.enrol(["legacy"])
    declared.worker("legacy", "Ready")
    declared.wait_converged(within=_WITHIN_SECONDS)
    before = repairs()
    assert before.keys() == {"queue_changed", "queue_removed", "worker"}

    shop.query("UPDATE pgqrs_queues SET paused = true, read_limit = 1 WHERE queue_name = 'emails'")
    assert "changed by somebody else" in _told(shop, "PgqrsQueue", "emails", "DriftRepaired")
    declared.wait_converged(within=_WITHIN_SECONDS)

    shop.query("UPDATE pgqrs_workers SET status = 'suspended'")
    assert "made suspended by somebody else" in _told(shop, "PgqrsWorker", "legacy", "DriftRepaired")
    declared.wait_converged(within=_WITHIN_SECONDS)

    shop.send(1)
    row = "SELECT id FROM pgqrs_queues WHERE queue_name = 'emails'"
    former = shop.number(row)
    shop.query("DELETE FROM pgqrs_queues WHERE queue_name = 'emails'")
    assert f"former id {former}" in _told(shop, "PgqrsQueue", "emails", "Recreated")
    declared.wait_converged(within=_WITHIN_SECONDS)
    assert shop.number(row) == former
    shop.deploy(SEND_SECONDS="0")
    shop.wait_handled(1, within=20.0)

    assert repairs() == {kind: count + 1 for kind, count in before.items()}
    assert operators.leader() == leader

    numbers = dict(_NUMBERS.findall(shop.installation.metrics(leader)))
    assert 0 <= float(numbers["pgqrs_operator_watch_age_seconds"]) < _WITHIN_SECONDS
    assert 0 <= float(numbers["pgqrs_operator_database_loop_age_seconds"]) < 2 * _WITHIN_SECONDS
    for name in ("pgqrs_operator_database_round_trips_total", "pgqrs_operator_reconcile_duration_seconds_count"):
        assert float(numbers[name]) > 0
    assert numbers["pgqrs_operator_leader"] == "1.0"
    (ready,) = (
        value
        for labels, value in _DEPTHS.findall(shop.installation.metrics(leader))
        if f'namespace="{shop.namespace}"' in labels and f'queue="{STEADY}"' in labels and 'state="ready"' in labels
    )
    assert ready == "0.0"
