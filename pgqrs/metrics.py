"""Shows what `Consumer.run` counts to Prometheus, where `prometheus_client` is installed."""

from __future__ import annotations

import functools
import importlib.util
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pgqrs import measures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqrs.measures import Durations, Measures

_COUNTERS = {
    "handled": "Messages whose handler returned",
    "failed": "Messages whose handler raised, whatever became of them",
    "retried": "Messages that failed and are tried again",
    "dead_lettered": "Messages that failed and became dead letters",
    "lost": "Messages that were another worker's by the time they were completed",
}


class Collector:
    """Reads the counts when somebody scrapes; a queue is a label, a worker is not, because workers come and go."""

    def collect(self) -> Iterator[Any]:
        """Give one family of metrics after the other."""
        from prometheus_client.core import (  # noqa: PLC0415 - only where it is installed
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        queues = measures.all_queues()
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"pgqrs_consumer_messages_{name}", text, labels=["queue"])
            for queue, found in queues.items():
                counter.add_metric([queue], getattr(found, name))
            yield counter
        in_flight = GaugeMetricFamily(
            "pgqrs_consumer_messages_in_flight", "Messages whose handler runs", labels=["queue"]
        )
        for queue, found in queues.items():
            in_flight.add_metric([queue], found.in_flight)
        yield in_flight
        for name, text, pick in (
            ("handler_seconds", "How long handlers took", _handling),
            ("queue_seconds", "How long messages could have been leased before they were", _waiting),
        ):
            histogram = HistogramMetricFamily(f"pgqrs_consumer_{name}", text, labels=["queue"])
            for queue, found in queues.items():
                durations = pick(found)
                bounds = [*(str(bound) for bound in measures.BOUNDS), "+Inf"]
                buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
                histogram.add_metric([queue], buckets, durations.sum)
            yield histogram


def _handling(found: Measures) -> Durations:
    return found.handling


def _waiting(found: Measures) -> Durations:
    return found.waiting


@functools.cache
def register() -> None:
    """Show the counts in the default registry; nothing where `prometheus_client` is not installed, nothing twice."""
    if importlib.util.find_spec("prometheus_client") is None:
        return
    from prometheus_client import REGISTRY  # noqa: PLC0415 - only where it is installed

    REGISTRY.register(Collector())
