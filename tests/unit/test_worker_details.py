"""What the status of a `PgqrsWorker` shows beside its conditions, and how often what changes all the time is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from pgqrs.fleet import Fleet
from pgqrs_operator import verdicts
from pgqrs_operator.assignment import Assignment
from pgqrs_operator.counting import Counts
from pgqrs_operator.details import worker_details
from pgqrs_operator.facts import Desired, Key, Plan, WorkerReport
from pgqrs_operator.findings import Findings
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.reports import Reporter
from pgqrs_operator.state import State
from pgqrs_operator.store import Store, read_worker
from tests.unit.test_reports import Server

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WORKING = verdicts.ready("Working", "It works.")
READY = WorkerReport(worker_ids=(3, 5), state="Ready", stale=False, leased=2)


def body(**status: Any) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "u1"}
    metadata = {"name": "web-1", "namespace": "shop", "uid": "w1", "resourceVersion": "1", "generation": 1}
    return {
        "kind": "PgqrsWorker",
        "metadata": {**metadata, "ownerReferences": [owner]},
        "spec": {"queueRef": {"name": "emails"}},
        "status": status,
    }


def shown(report: WorkerReport | None, *, counted: bool = False, **status: Any) -> dict[str, Any]:
    return worker_details(read_worker(body(**status)), report, WORKING, counted=counted, now=NOW)


def test_a_worker_shows_its_rows_its_pod_its_state_and_its_heartbeat() -> None:
    assert shown(READY) == {
        "workerIds": [3, 5],
        "state": "Ready",
        "leasedMessages": 2,
        "pod": "web-1",
        "heartbeat": "Fresh",
    }
    assert shown(None) == {}


@pytest.mark.parametrize(("stale", "heartbeat"), [(False, "Fresh"), (True, "Stale"), (None, None)])
def test_a_heartbeat_is_fresh_or_stale_or_of_no_row(stale: bool | None, heartbeat: str | None) -> None:  # noqa: FBT001
    assert shown(replace(READY, stale=stale)).get("heartbeat") == heartbeat


def test_not_more_rows_are_named_than_the_schema_takes() -> None:
    assert len(shown(replace(READY, worker_ids=tuple(range(2000))))["workerIds"]) == 1000


def test_a_worker_without_a_pod_names_none() -> None:
    bare = body()
    del bare["metadata"]["ownerReferences"]
    bare["spec"] |= {"hostname": "h", "port": 1}
    assert "pod" not in worker_details(read_worker(bare), READY, WORKING, counted=False, now=NOW)


@pytest.mark.parametrize(
    ("state", "before", "told", "held", "counted", "shows"),
    [
        pytest.param("Ready", "Ready", 7, 2, False, 7, id="busy"),
        pytest.param("Ready", "Ready", 7, 2, True, 2, id="counted"),
        pytest.param("Ready", "Ready", 7, 0, False, 7, id="idle for a moment"),
        pytest.param("Ready", "Ready", 0, 1, False, 0, id="busy again"),
        pytest.param("Ready", "Ready", 7, 0, True, 0, id="idle and counted"),
        pytest.param("Ready", "Ready", None, 2, False, 2, id="never told"),
        pytest.param("Ready", "Suspended", 7, 2, False, 2, id="resumed"),
        pytest.param("Draining", "Ready", 7, 2, False, 2, id="begins to drain"),
        pytest.param("Draining", "Draining", 7, 2, False, 2, id="drains"),
        pytest.param("Suspended", "Draining", 1, 0, False, 0, id="is suspended"),
    ],
)
def test_what_a_worker_that_works_holds_is_told_when_messages_are_counted(  # noqa: PLR0917 - one for each column
    state: str,
    before: str,
    told: int | None,
    held: int,
    counted: bool,  # noqa: FBT001 - a parameter of the test
    shows: int,
) -> None:
    status = {"state": before} | ({} if told is None else {"leasedMessages": told})
    report = replace(READY, state=state, leased=held)
    assert shown(report, counted=counted, **status)["leasedMessages"] == shows


def _plan(*, queue: verdicts.Verdict | None = None, worker: verdicts.Verdict | None = None) -> Plan:
    return Plan(
        actions=(),
        queues={} if queue is None else {Key("shop", "emails"): queue},
        workers={} if worker is None else {Key("shop", "web-1"): worker},
        reports={},
        done_queues=frozenset(),
        done_workers=frozenset(),
    )


class Told:
    """One resource whose status is written as rounds find it."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.server, self.store = Server(), Store()
        self.server.body = made
        self._queue = made["kind"] == "PgqrsQueue"
        self._shelf: Any = self.store.queues if self._queue else self.store.workers
        self._shelf.put(made)
        reporter = Reporter(cast("Any", self.server), self.store)
        self._findings = Findings(reporter, self.store, Counts(cast("Any", None)), Metrics())

    async def round(self, verdict: verdicts.Verdict, *, counted: bool = False) -> str:
        """Write what a round found; give the message that the status has then."""
        planned = _plan(queue=verdict) if self._queue else _plan(worker=verdict)
        queues, workers = (tuple(self._shelf), ()) if self._queue else ((), tuple(self._shelf))
        state = State(
            assignment=Assignment(queues=queues, workers=workers, pods=()),
            queues=queues,
            workers=workers,
            desired=Desired(queues=(), workers=()),
            found=Fleet(queues={}, workers=()),
            planned=planned,
            steady=False,
        )
        assert (await self._findings.report(state, counted=counted, hurry=lambda: False)).all
        message: str = verdicts.condition(self.server.body["status"], "Ready")["message"]
        return message


def _queue_body() -> dict[str, Any]:
    return {**Server().body, "spec": {"connection": {"secretRef": {"name": "pgqrs"}}}}


@pytest.mark.parametrize(
    ("made", "reason"),
    [(_queue_body(), "WaitingForMessages"), (body(), "Draining"), (body(), "Terminating")],
)
async def test_how_many_messages_are_left_is_written_when_they_are_counted(made: dict[str, Any], reason: str) -> None:
    told = Told(made)
    assert await told.round(verdicts.waiting(reason, "9 message(s) left.")) == "9 message(s) left."
    first = len(told.server.patches)
    for left in range(8, 0, -1):
        assert await told.round(verdicts.waiting(reason, f"{left} message(s) left.")) == "9 message(s) left."
    assert len(told.server.patches) == first
    assert await told.round(verdicts.waiting(reason, "1 message(s) left."), counted=True) == "1 message(s) left."
    assert len(told.server.patches) == first + 1
    # What is something else is said at once.
    assert await told.round(verdicts.waiting("Deleting", "It goes.")) == "It goes."


async def test_what_was_said_of_an_older_spec_is_not_said_again() -> None:
    told = Told(body())
    await told.round(verdicts.waiting("Draining", "9 message(s) left."))
    told.server.body["metadata"] |= {"generation": 2, "resourceVersion": "9"}
    told._shelf.put(told.server.body)  # noqa: SLF001 - as a watch does
    assert await told.round(verdicts.waiting("Draining", "8 message(s) left.")) == "8 message(s) left."
