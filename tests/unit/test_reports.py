"""What is written to resources: what changed, and nothing else."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from pgqrs.fleet import FleetCounts, FleetQueue
from pgqrs.models import QueueCounts, QueueId, QueueInfo, QueuePolicy, Timestamp
from pgqrs_operator import verdicts
from pgqrs_operator.counting import Counts
from pgqrs_operator.details import queue_details
from pgqrs_operator.reports import Reporter
from pgqrs_operator.store import Store
from pgqrs_operator.verdicts import merge_patch
from tests.support.merge_patch import merged

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgqrs.database import Database
    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.store import Queue

SINCE = Timestamp.of(datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC))
ROW = FleetQueue(
    info=QueueInfo(id=QueueId(7), queue_name="emails", created_at=SINCE, policy=QueuePolicy(), owner="shop/emails")
)
IN_SYNC = verdicts.ready("InSync", "Queue 'emails' is as declared.")


class Server:
    """Takes what is written of one `PgqrsQueue`."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {
            "kind": "PgqrsQueue",
            "metadata": {"name": "emails", "namespace": "shop", "uid": "u1", "resourceVersion": "1", "generation": 1},
        }
        self.patches: list[dict[str, Any]] = []
        self.events: list[str] = []

    async def patch_status(self, _plural: str, _namespace: str, _name: str, patch: dict[str, Any]) -> dict[str, Any]:
        self.patches.append(patch)
        version = int(self.body["metadata"]["resourceVersion"]) + 1
        status = merged(self.body.get("status", {}), patch)
        self.body = {
            **self.body,
            "metadata": {**self.body["metadata"], "resourceVersion": str(version)},
            "status": status,
        }
        return self.body

    async def create_event(self, _namespace: str, body: dict[str, Any]) -> None:
        self.events.append(body["reason"])


class Desk:
    """A reporter, its server and its store."""

    def __init__(self) -> None:
        self.server = Server()
        self.store = Store()
        self.store.queues.put(self.server.body)
        self.reporter = Reporter(cast("Kubernetes", self.server), self.store)

    @property
    def queue(self) -> Queue:
        """The resource as the operator knows it."""
        found = self.store.queues.get("u1")
        assert found is not None
        return found

    async def tell(self, verdict: verdicts.Verdict, counts: FleetCounts | None = None) -> list[dict[str, Any]]:
        """Tell it, and give what was written for that."""
        before = len(self.server.patches)
        await self.reporter.tell(self.queue, verdict, queue_details(ROW, counts, verdict, told=self.queue.status))
        return self.server.patches[before:]


def counted(ready: int, **more: Any) -> FleetCounts:
    return FleetCounts(messages=QueueCounts(ready=ready, leased=2, dead=1), ready=3, suspended=1, **more)


async def test_nothing_is_written_where_nothing_changed() -> None:
    desk = Desk()
    counts = counted(5, oldest=timedelta(seconds=9), oldest_since=SINCE)
    assert len(await desk.tell(IN_SYNC, counts)) == 1
    # The oldest message grows older, which is no change of when it began to wait.
    assert await desk.tell(IN_SYNC, counted(5, oldest=timedelta(seconds=39), oldest_since=SINCE)) == []
    assert desk.server.events == []


async def test_only_what_changed_is_written() -> None:
    desk = Desk()
    await desk.tell(IN_SYNC, counted(5, oldest_since=SINCE))
    assert await desk.tell(IN_SYNC, counted(6, oldest_since=SINCE)) == [{"messages": {"ready": 6}}]
    assert await desk.tell(IN_SYNC, counted(0)) == [{"messages": {"ready": 0}, "oldestReadySince": None}]
    assert desk.server.events == []


async def test_an_event_tells_of_a_transition_and_of_nothing_that_passes() -> None:
    desk = Desk()
    await desk.tell(verdicts.waiting("Applying", "soon"))
    assert desk.server.events == []
    await desk.tell(IN_SYNC)
    await desk.tell(verdicts.ready("InSync", "said in other words"))
    await desk.tell(verdicts.stalled("InvalidSpec", "wrong"))
    await desk.tell(verdicts.waiting("DatabaseUnavailable", "gone"))
    assert desk.server.events == ["InSync", "InvalidSpec", "DatabaseUnavailable"]


async def test_that_something_new_is_as_it_should_be_is_no_event() -> None:
    fine, wrong = Desk(), Desk()
    await fine.tell(IN_SYNC)
    assert fine.server.events == []
    await wrong.tell(verdicts.stalled("InvalidSpec", "wrong"))
    assert wrong.server.events == ["InvalidSpec"]


def test_numbers_that_are_only_a_lower_bound_say_so() -> None:
    capped = FleetCounts(messages=QueueCounts(ready=10_000, dead=10_000, capped=("ready", "dead")), oldest_since=SINCE)
    told = queue_details(ROW, capped, IN_SYNC, told={})
    assert told["messages"] == {"ready": 10_000, "delayed": 0, "leased": 0, "dead": 10_000, "capped": ["ready", "dead"]}
    assert told["oldestReadySince"] == "2026-01-02T03:04:05Z"
    after = queue_details(ROW, counted(7), IN_SYNC, told=told)
    assert merge_patch(told, after)["messages"]["capped"] is None
    assert "oldestReadySince" not in after


async def test_who_scales_by_a_queue_makes_nobody_write_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = iter(range(10))

    async def count(_: object, names: Collection[str]) -> dict[str, FleetCounts]:
        return {name: counted(next(ready)) for name in names}

    monkeypatch.setattr("pgqrs_operator.counting.fleet.counts", count)
    monkeypatch.setattr("pgqrs_operator.counting._URGENT_SECONDS", 0.0)
    counts = Counts(cast("Database", None))
    assert await counts.refresh(["emails"])
    for number in (1, 2):
        assert not await counts.refresh(["emails"], urgent=["emails"])
        backlog, shown = counts.backlog("emails"), counts.of("emails")
        assert backlog is not None
        assert shown is not None
        assert (backlog.counts.messages.ready, shown.messages.ready) == (number, 0)
    monkeypatch.setattr("pgqrs_operator.counting._INTERVAL_SECONDS", 0.0)
    assert await counts.refresh(["emails"])
    assert counts.of("emails") == counted(3)


def test_of_a_row_that_is_somebody_else_s_nothing_is_told() -> None:
    told = queue_details(ROW, counted(5), IN_SYNC, told={})
    assert queue_details(ROW, counted(5), verdicts.stalled("Conflict", "not yours"), told=told) == {}


def test_of_a_row_that_is_gone_it_is_told_which_one_it_was() -> None:
    told = queue_details(ROW, counted(5), IN_SYNC, told={})
    gone = queue_details(None, counted(5), verdicts.stalled("DatabaseRefused", "no"), told=told)
    assert gone == {"queueName": "emails", "queueId": 7}
    assert queue_details(None, None, verdicts.waiting("Applying", "soon"), told={}) == {}


def test_what_could_not_be_counted_is_told_as_before() -> None:
    told = queue_details(ROW, counted(5, oldest_since=SINCE), IN_SYNC, told={})
    assert queue_details(ROW, None, IN_SYNC, told=told) == told


async def test_one_write_that_fails_keeps_no_other_from_being_made() -> None:
    desk = Desk()
    written: list[int] = []

    async def write(number: int) -> None:
        if number == 1:
            message = "a defect"
            raise RuntimeError(message)
        written.append(number)

    await desk.reporter.in_time(write(number) for number in range(3))
    assert written == [0, 2]


async def test_writes_that_were_cancelled_before_they_began_leave_nothing_behind() -> None:
    desk = Desk()

    async def write() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await desk.reporter.in_time(write() for _ in range(50))
    gc.collect()


async def test_what_has_to_be_done_first_ends_the_writing() -> None:
    desk, written = Desk(), 0

    async def write() -> None:
        nonlocal written
        written += 1

    # The iterable is not even asked for what comes too late.
    assert not await desk.reporter.in_time((write() for _ in range(1000)), hurry=lambda: True)
    assert 0 < written < 1000
    assert await desk.reporter.in_time(write() for _ in range(1000))
