"""What the operator counts, for Prometheus; with a registry of its own, so that two in one process do not mix.

`docs/metrics.md` lists all of it. A label is only ever a word of a short list, the name of a queue that is there, or
the address of a database without user and password.
"""

from __future__ import annotations

import time
from collections import Counter as Multiset
from typing import TYPE_CHECKING, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from pgqrs_operator.backlogs import Backlogs
from pgqrs_operator.queue_metrics import QueueCollector

if TYPE_CHECKING:
    from collections.abc import Callable

#: Why a worker was stopped: its pod is gone, its pod or container ended, its heartbeats stopped, or somebody said so.
ReleaseCause = Literal["pod_deleted", "pod_ended", "heartbeat_timeout", "declared"]

#: What somebody else did to a row that was as declared: a queue's was changed or removed, a worker's was changed.
DriftKind = Literal["queue_changed", "queue_removed", "worker"]

_DRIFT: dict[str, DriftKind] = {"DriftRepaired": "queue_changed", "Recreated": "queue_removed"}
_DELAY_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_RECONCILE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MOST_QUEUES = 1000


class Metrics:
    """All numbers of one operator."""

    def __init__(self, *, most_queues: int = _MOST_QUEUES) -> None:
        """Begin to count.

        Args:
            most_queues: how many queues have series of their own.
        """
        self.registry = CollectorRegistry()
        self.backlogs = Backlogs()
        self.registry.register(QueueCollector(self.backlogs, most_queues))
        ProcessCollector(registry=self.registry)
        self._stopped = self._counter("workers_stopped", "Workers that were stopped, by cause.", "cause")
        self._released = self._counter(
            "messages_released", "Messages that became free when their worker was stopped, by cause.", "cause"
        )
        self._delay = Histogram(
            "pgqrs_operator_release_delay_seconds",
            "From the end of a process, or its last heartbeat, until what it held was free, by cause.",
            ["cause"],
            buckets=_DELAY_BUCKETS,
            registry=self.registry,
        )
        self._written = self._counter("queue_writes", "Rows of queues that were made as declared, by cause.", "cause")
        self._drift = self._counter(
            "drift_repairs", "Rows that somebody else had changed and that were set right, by kind.", "kind"
        )
        self._reaped = self._counter(
            "reaped", "Messages that were dead-lettered or removed, and workers, by kind.", "kind"
        )
        self._reconciled = Histogram(
            "pgqrs_operator_reconcile_duration_seconds",
            "How long one round of one database took, from reading its rows to writing statuses.",
            buckets=_RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self._last_round = self._gauge(
            "database_reconcile_duration_seconds", "How long the latest complete round took.", "database"
        )
        self._up = self._gauge("database_up", "Whether the latest round of this database was complete.", "database")
        self._failures = self._counter("database_failures", "Rounds that the database failed.", "database")
        self._round_trips = self._counter("database_round_trips", "Statements that were answered or failed.")
        self._uninjected = self._gauge("pods_without_sidecar", "Labelled pods that no injector met.")
        self._listed = self._gauge("last_listing_timestamp_seconds", "When pods were last listed.")
        self._leader = self._gauge("leader", "Whether this process is the one that acts.")
        self._watch_age = self._gauge(
            "watch_age_seconds", "Time since the leader last saw a write of its own come back on its watch."
        )
        #: When each loop of a database was last heard of, by the monotonic clock.
        self._heard: dict[object, float] = {}
        self._gauge(
            "database_loop_age_seconds", "Time since the loop that was silent longest last ended a round."
        ).set_function(lambda: _age(self.oldest_loop_at))
        #: How many loops look after a database of this address; several schemas of it are several.
        self._loops: Multiset[str] = Multiset()
        # Shown from the beginning, so that the first one of each is an increase.
        for cause in get_args(ReleaseCause):
            self._stopped.labels(cause)
            self._released.labels(cause)
        for kind in get_args(DriftKind):
            self._drift.labels(kind)
        #: Moments of the monotonic clock, for the liveness probe; None before the first.
        self.listed_at: float | None = None
        self.turned_at: float | None = None

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pgqrs_operator_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"pgqrs_operator_{name}", text, labels, registry=self.registry)

    def worker_stopped(self, cause: ReleaseCause, messages: int, delay: float | None = None) -> None:
        """Count a worker that was stopped.

        Args:
            cause: why.
            messages: how many became free.
            delay: seconds from its end until then, where that is known.
        """
        self._stopped.labels(cause).inc()
        self._released.labels(cause).inc(messages)
        if messages and delay is not None:
            # Nobody waits for a worker that held nothing.
            self._delay.labels(cause).observe(max(0.0, delay))

    def queue_declared(self, cause: str) -> None:
        """Count a row of a queue that was written, by the word that its Event has for the reason."""
        if cause in _DRIFT:
            self.drift_repaired(_DRIFT[cause])
        else:
            self._written.labels(cause).inc()

    def drift_repaired(self, kind: DriftKind) -> None:
        """Count a row that somebody else had changed and that was set right."""
        self._drift.labels(kind).inc()

    def reaped(self, kind: str, count: int) -> None:
        """Count what a pass of the reaper did; from the first pass on each kind is shown."""
        self._reaped.labels(kind).inc(count)

    def pods_without_sidecar(self, count: int) -> None:
        """Note how many there are now."""
        self._uninjected.set(count)

    def database_taken(self, where: str) -> None:
        """Show a database from now on, `database_left` as often forgets it."""
        self._loops[where] += 1
        self._failures.labels(where)

    def database_left(self, where: str) -> None:
        """Forget a database that no loop looks after any more."""
        self._loops[where] -= 1
        if self._loops[where] <= 0:
            del self._loops[where]
            for family in (self._failures, self._up, self._last_round):
                family.remove_by_labels({"database": where})

    def database_failed(self, where: str) -> None:
        """Count a round that failed."""
        self._failures.labels(where).inc()
        self._up.labels(where).set(0)

    def loop_heard(self, loop: object) -> None:
        """Note that a loop goes on, whether its round was complete or failed; `loop_ended` forgets it."""
        self._heard[loop] = time.monotonic()

    def loop_ended(self, loop: object) -> None:
        """Forget a loop that goes round no more."""
        self._heard.pop(loop, None)

    @property
    def oldest_loop_at(self) -> float | None:
        """When the loop that was silent longest was heard of, by the monotonic clock; None where there is no loop."""
        return min(self._heard.values(), default=None)

    def round_took(self, where: str, seconds: float) -> None:
        """Note that a round was complete, and how long it took."""
        self._reconciled.observe(seconds)
        self._last_round.labels(where).set(seconds)
        self._up.labels(where).set(1)

    def round_trips(self, count: int) -> None:
        """Count statements that a database was sent."""
        self._round_trips.inc(count)

    def cluster_listed(self) -> None:
        """Note that pods were listed just now."""
        self._listed.set_to_current_time()
        self.listed_at = time.monotonic()

    def controller_turned(self) -> None:
        """Note that the controller went round just now."""
        self.turned_at = time.monotonic()

    def show_watch(self, seen_at: Callable[[], float | None]) -> None:
        """Show how long ago a watch showed something, by the monotonic clock; it is no number before the first time."""
        self._watch_age.set_function(lambda: _age(seen_at()))

    def leads(self, *, leading: bool) -> None:
        """Note whether this process is the one that acts."""
        self._leader.set(leading)

    def text(self) -> bytes:
        """Give all of it in Prometheus' text format."""
        return generate_latest(self.registry)


def _age(at: float | None) -> float:
    """Give the seconds since a moment of the monotonic clock, no number where there is none."""
    return float("nan") if at is None else time.monotonic() - at
