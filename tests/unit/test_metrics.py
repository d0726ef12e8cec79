"""What Prometheus is shown: in its form, with few labels, and nothing of what is gone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgqrs.fleet import Fleet, FleetCounts, FleetWorker
from pgqrs.models import QueueCounts, Timestamp, WorkerId, WorkerInfo, WorkerStatus
from pgqrs_operator import backlogs, pods
from pgqrs_operator.api import Listing
from pgqrs_operator.backlogs import Backlog
from pgqrs_operator.deaths import deaths
from pgqrs_operator.facts import InterruptWorker, Key, StopWorker
from pgqrs_operator.metrics import Metrics, ReleaseCause
from pgqrs_operator.store import Store
from tests.support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pgqrs_operator.facts import Action

GONE = pods.gone(None)
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
#: Every label there is; what each may say is a short list, but for the names of queues and databases.
LABELS = {"namespace", "queue", "state", "cause", "kind", "database", "le"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("backlogs", "deaths", "store", "metrics"):
        monkeypatch.setattr(f"pgqrs_operator.{module}.time", made)
    return made


def shown(metrics: Metrics) -> dict[str, float]:
    """All samples, by their names and the values of their labels."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def counted(clock: Clock, messages: QueueCounts | None = None) -> Backlog:
    counts = FleetCounts(messages=messages or QueueCounts(), oldest=timedelta(seconds=2.5), ready=3, stopped=1)
    return Backlog(counts, clock.now)


def used() -> Metrics:
    """Metrics in which everything was counted once."""
    metrics = Metrics()
    metrics.backlogs.put(Key("shop", "emails"), Backlog(FleetCounts(), 0.0))
    metrics.database_taken("db:5432/app")
    metrics.database_failed("db:5432/app")
    metrics.round_took("db:5432/app", 0.1)
    metrics.round_trips(3)
    for cause in get_args(ReleaseCause):
        metrics.worker_stopped(cause, 1, 0.5)
    for word in ("Created", "Recreated", "Adopted", "Updated", "DriftRepaired"):
        metrics.queue_declared(word)
    metrics.reaped("dead_letters", 1)
    metrics.pods_without_sidecar(0)
    metrics.cluster_listed()
    metrics.leads(leading=True)
    return metrics


def test_every_metric_is_named_as_prometheus_wants_it_and_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "STALE_SECONDS", float("inf"))
    page = PAGE.read_text(encoding="utf-8")
    seen = set()
    for family in text_string_to_metric_families(used().text().decode()):
        samples = {sample.name: sample.labels for sample in family.samples if not sample.name.endswith("_created")}
        if not samples:
            continue
        assert family.documentation
        assert family.name.startswith(("pgqrs_queue", "pgqrs_operator_", "process_"))
        for name, labels in samples.items():
            assert re.fullmatch("[a-z_]+", name)
            assert set(labels) <= LABELS
            assert (family.type == "counter") == name.endswith("_total")
            assert not re.search("(milliseconds|minutes|_ms|_kb)", name)
        if not family.name.startswith("process_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert f"`{name}`" in page
            seen.add(name)
    # Nor does the page speak of what is not there.
    assert set(re.findall(r"^\| `(pgqrs_(?:queue|operator)\w*)`", page, re.MULTILINE)) == seen


def test_a_queue_is_shown_by_its_states(clock: Clock) -> None:
    metrics = Metrics()
    metrics.backlogs.put(Key("shop", "emails"), counted(clock, QueueCounts(ready=7, delayed=1, leased=4, dead=2)))
    numbers = shown(metrics)
    queue = {name: value for name, value in numbers.items() if "shop emails" in name}
    assert queue == {
        "pgqrs_queue_messages shop emails ready": 7,
        "pgqrs_queue_messages shop emails delayed": 1,
        "pgqrs_queue_messages shop emails leased": 4,
        "pgqrs_queue_messages shop emails dead": 2,
        "pgqrs_queue_oldest_ready_age_seconds shop emails": 2.5,
        "pgqrs_queue_workers shop emails ready": 3,
        "pgqrs_queue_workers shop emails suspended": 0,
        "pgqrs_queue_workers shop emails stopped": 1,
    }
    assert numbers["pgqrs_queues"] == 1


def test_a_queue_that_is_gone_or_not_counted_any_more_is_not_shown(clock: Clock) -> None:
    metrics = Metrics()
    for name in ("a", "b", "c"):
        metrics.backlogs.put(Key("shop", name), counted(clock))
    metrics.backlogs.keep([Key("shop", "a"), Key("shop", "b")])
    assert "pgqrs_queue_workers shop c ready" not in shown(metrics)
    clock.now += backlogs.STALE_SECONDS - 1
    metrics.backlogs.put(Key("shop", "a"), counted(clock))
    assert {"pgqrs_queue_workers shop a ready", "pgqrs_queue_workers shop b ready"} <= shown(metrics).keys()
    clock.now += 2
    assert "pgqrs_queue_workers shop b ready" not in shown(metrics)
    metrics.backlogs.put(Key("shop", "a"), None)
    assert not [name for name in shown(metrics) if "shop" in name]
    assert shown(metrics)["pgqrs_queues"] == 0


def test_of_too_many_queues_the_same_ones_are_shown(clock: Clock) -> None:
    metrics = Metrics(most_queues=2)
    for name in ("c", "a", "d", "b"):
        metrics.backlogs.put(Key("shop", name), counted(clock))
    numbers = shown(metrics)
    assert {name.split()[2] for name in numbers if name.startswith("pgqrs_queue_messages")} == {"a", "b"}
    assert (numbers["pgqrs_queues"], numbers["pgqrs_queues_not_shown"]) == (4, 2)


def test_drift_and_what_was_declared_are_told_apart() -> None:
    metrics = Metrics()
    for word in ("Created", "Adopted", "Updated", "DriftRepaired", "DriftRepaired", "Recreated"):
        metrics.queue_declared(word)
    numbers = shown(metrics)
    written = {name: value for name, value in numbers.items() if name.startswith("pgqrs_operator_queue_writes_total")}
    assert set(written.values()) == {1}
    assert {name.split()[1] for name in written} == {"Created", "Adopted", "Updated"}
    assert numbers["pgqrs_operator_drift_repairs_total queue_changed"] == 2
    assert numbers["pgqrs_operator_drift_repairs_total queue_removed"] == 1
    assert numbers["pgqrs_operator_drift_repairs_total worker"] == 0


def test_a_release_is_counted_with_its_delay_where_somebody_waited() -> None:
    metrics = Metrics()
    metrics.worker_stopped("pod_ended", 3, 0.7)
    metrics.worker_stopped("pod_ended", 0, 50.0)
    metrics.worker_stopped("pod_ended", 1, None)
    # A node's clock that is ahead of ours.
    metrics.worker_stopped("pod_ended", 1, -2.0)
    numbers = shown(metrics)
    assert numbers["pgqrs_operator_workers_stopped_total pod_ended"] == 4
    assert numbers["pgqrs_operator_messages_released_total pod_ended"] == 5
    delay = "pgqrs_operator_release_delay_seconds"
    assert (numbers[f"{delay}_count pod_ended"], numbers[f"{delay}_sum pod_ended"]) == (2, 0.7)
    assert numbers[f"{delay}_bucket pod_ended 0.5"] == 1
    # The others are there from the beginning, so that their first one is an increase.
    assert numbers["pgqrs_operator_messages_released_total heartbeat_timeout"] == 0


def test_a_database_is_shown_until_its_last_loop_ends() -> None:
    """Two schemas of one database have one address."""
    metrics = Metrics()
    for _ in range(2):
        metrics.database_taken("db:5432/app")
    metrics.database_taken("other:5432/app")
    metrics.database_failed("db:5432/app")
    metrics.database_left("db:5432/app")
    numbers = shown(metrics)
    assert numbers["pgqrs_operator_database_up db:5432/app"] == 0
    assert numbers["pgqrs_operator_database_failures_total db:5432/app"] == 1
    assert numbers["pgqrs_operator_database_failures_total other:5432/app"] == 0
    metrics.round_took("db:5432/app", 0.2)
    assert shown(metrics)["pgqrs_operator_database_up db:5432/app"] == 1
    metrics.database_left("db:5432/app")
    assert not [name for name in shown(metrics) if " db:5432/app" in name]


def test_the_age_of_the_watch_is_no_number_before_it_showed_something(clock: Clock) -> None:
    metrics = Metrics()
    at: float | None = None
    metrics.show_watch(lambda: at)
    age = shown(metrics)["pgqrs_operator_watch_age_seconds"]
    assert age != age  # noqa: PLR0124 - only NaN differs from itself
    at, clock.now = clock.now, clock.now + 4
    assert shown(metrics)["pgqrs_operator_watch_age_seconds"] == 4


# -- when who died


def row(uid: str | None, *, worker_id: int = 1, heartbeat: datetime | None = None) -> FleetWorker:
    info = WorkerInfo(
        id=WorkerId(worker_id), name="h:1", hostname="h", port=1, queue_id=None, status=WorkerStatus.READY,
        started_at=None, heartbeat_at=Timestamp.of(heartbeat) if heartbeat else None, shutdown_at=None, pod_uid=uid,
    )  # fmt: skip
    return FleetWorker(info=info, queue_name="emails", owner=None, silent=False, stale=False)


def pod(name: str, finished: datetime | None) -> dict[str, Any]:
    """A pod whose app ended 5 s before its sidecar."""
    states: list[dict[str, Any]] = [{"running": {}}, {"running": {}}]
    if finished is not None:
        moments = [finished - timedelta(seconds=5), finished]
        states = [
            {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": f"{at:%Y-%m-%dT%H:%M:%SZ}"}}
            for at in moments
        ]
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "app", "state": states[0]}],
            "initContainerStatuses": [{"name": "pgqrs-sidecar", "state": states[1]}],
        },
    }


def _vanished(store: Store, clock: Clock) -> tuple[StopWorker, FleetWorker, dict[str, str]]:
    store.pods.put(pod("p", None))
    store.pods.drop("p", 2)
    clock.now += 3
    return StopWorker(WorkerId(1), GONE), row("p"), {"p": GONE}


def _ended(store: Store, _clock: Clock) -> tuple[StopWorker, FleetWorker, dict[str, str]]:
    store.pods.put(pod("p", datetime.now(UTC) - timedelta(seconds=3)))
    return StopWorker(WorkerId(1), "container app: Error (1)"), row("p"), {"p": "container app: Error (1)"}


def _silent(_store: Store, _clock: Clock) -> tuple[StopWorker, FleetWorker, dict[str, str]]:
    heard = row("p", heartbeat=datetime.now(UTC) - timedelta(seconds=3))
    return StopWorker(WorkerId(1), "heartbeat timeout", only_if="silent"), heard, {}


@pytest.mark.parametrize(
    ("make", "cause"),
    [(_vanished, "pod_deleted"), (_ended, "pod_ended"), (_silent, "heartbeat_timeout")],
)
def test_the_delay_counts_from_the_death(
    make: Callable[[Store, Clock], tuple[StopWorker, FleetWorker, dict[str, str]]], cause: str, clock: Clock
) -> None:
    store = Store()
    action, found, ended = make(store, clock)
    death = deaths([action], Fleet(queues={}, workers=(found,)), ended, store.pods)[WorkerId(1)]
    assert death.cause == cause
    # What a pod says is in whole seconds.
    assert death.delay == pytest.approx(3, abs=1.5)


def test_who_did_not_die_has_no_delay(clock: Clock) -> None:
    store = Store()
    actions: list[Action] = [
        StopWorker(WorkerId(1), "PgqrsWorker shop/w says Stopped"),
        InterruptWorker(WorkerId(2), "o"),
    ]
    found = deaths(actions, Fleet(queues={}, workers=(row(None),)), {}, store.pods)
    assert {worker_id: (death.cause, death.delay) for worker_id, death in found.items()} == {1: ("declared", None)}
    # Nobody saw when that one disappeared: it was before this process began.
    gone = deaths([StopWorker(WorkerId(1), GONE)], Fleet(queues={}, workers=(row("x"),)), {"x": GONE}, store.pods)
    assert (gone[WorkerId(1)].cause, gone[WorkerId(1)].delay) == ("pod_deleted", None)
    clock.now += 1


async def _nothing(version: int) -> AsyncIterator[Listing]:
    yield Listing([], str(version))


async def test_when_a_pod_vanished_is_not_known_for_ever(clock: Clock) -> None:
    store = Store()
    store.pods.put(pod("p", None))
    await store.pods.replace(_nothing(2))
    assert store.pods.vanished("p") == clock.now
    clock.now += 601
    await store.pods.replace(_nothing(3))
    assert store.pods.vanished("p") is None
