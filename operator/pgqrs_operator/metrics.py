"""What the operator counts, for Prometheus; with a registry of its own, so that two in one process do not mix."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """All numbers of one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stopped = Counter(
            "pgqrs_operator_workers_stopped", "Workers that were stopped, by what was known.", ["known"],
            registry=self.registry,
        )  # fmt: skip
        self._released = Counter(
            "pgqrs_operator_messages_released", "Messages that became free when their worker was stopped.",
            registry=self.registry,
        )  # fmt: skip
        self._declared = Counter(
            "pgqrs_operator_queues_declared", "Rows of queues that were written, by cause.", ["cause"],
            registry=self.registry,
        )  # fmt: skip
        self._failures = Counter(
            "pgqrs_operator_database_failures", "Rounds that the database failed.", ["database"],
            registry=self.registry,
        )  # fmt: skip
        self._rounds = Histogram(
            "pgqrs_operator_round_seconds", "How long it took to make a database as declared.", ["database"],
            registry=self.registry,
        )  # fmt: skip
        self._listed = Gauge(
            "pgqrs_operator_last_listing_timestamp_seconds", "When the cluster was last listed.",
            registry=self.registry,
        )  # fmt: skip
        #: Moments of the monotonic clock, for the liveness probe; None before the first.
        self.listed_at: float | None = None
        self.turned_at: float | None = None

    def worker_stopped(self, known: str, messages: int) -> None:
        """Count a worker that was stopped, and what it held."""
        self._stopped.labels(known).inc()
        self._released.inc(messages)

    def queue_declared(self, cause: str) -> None:
        """Count a row that was written."""
        self._declared.labels(cause).inc()

    def database_failed(self, where: str) -> None:
        """Count a round that failed."""
        self._failures.labels(where).inc()

    def round_took(self, where: str, seconds: float) -> None:
        """Note how long a round took."""
        self._rounds.labels(where).observe(seconds)

    def cluster_listed(self) -> None:
        """Note that the cluster was listed just now."""
        self._listed.set_to_current_time()
        self.listed_at = time.monotonic()

    def controller_turned(self) -> None:
        """Note that the controller went round just now."""
        self.turned_at = time.monotonic()

    def text(self) -> bytes:
        """Give all of it in Prometheus' text format."""
        return generate_latest(self.registry)
