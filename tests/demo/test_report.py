"""The demo's verdict notices each promise that did not hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.demo.report import Kill, Report
from tests.support.ledger import Redelivery

AGAIN = Redelivery(message=7, worker=3, pod="emails-a", finished_before=False, cause="process died", started_at=101.5)
GOOD = Report(
    expected=10,
    summary={"sent": 10, "handled": 10, "twice": 0, "lost": 0, "not_archived": 0, "dead": 0},
    redeliveries=[AGAIN],
    kill=Kill(pod="emails-a", workers=(3,), at=100.0),
)


def test_all_is_well() -> None:
    assert GOOD.broken_promises() == []
    assert GOOD.kill_to_redelivery == pytest.approx(1.5)
    assert "every promise held" in GOOD.text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"summary": GOOD.summary | {"sent": 9}}, "9 messages are in the database"),
        ({"summary": GOOD.summary | {"lost": 1}}, "nothing is lost"),
        ({"summary": GOOD.summary | {"not_archived": 1}}, "nothing is stuck: 1 message"),
        ({"redeliveries": []}, "no message of the killed process"),
        ({"redeliveries": [dataclasses.replace(AGAIN, started_at=106.0)]}, "6.0 s from the kill"),
        ({"redeliveries": [AGAIN, dataclasses.replace(AGAIN, worker=4)]}, "a deleted pod drains: 1 message"),
        ({"problems": ["the pod emails-a has no sidecar"]}, "has no sidecar"),
    ],
)
def test_each_broken_promise_is_said(change: dict[str, Any], said: str) -> None:
    report = dataclasses.replace(GOOD, **change)
    assert len(report.broken_promises()) == 1
    assert said in report.broken_promises()[0]
    assert f"BROKEN  {report.broken_promises()[0]}" in report.text()


def test_a_handler_that_had_finished_is_explained() -> None:
    finished = dataclasses.replace(AGAIN, finished_before=True)
    report = dataclasses.replace(GOOD, redeliveries=[finished], summary=GOOD.summary | {"twice": 1})
    assert report.broken_promises() == []
    assert "message 7: process died (emails-a) after the handler, before the archive" in report.text()
