"""Shows the numbers of queues to Prometheus, made anew whenever it asks, so that a queue that is gone leaves no series.

Every queue has some eight series. For the monitoring's sake no more than a certain number of queues is shown, the first
ones by their names, which stay the same from one time to the next; how many are not shown is a number of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from pgqrs_operator.backlogs import Backlogs

_QUEUE = ("namespace", "queue")


class QueueCollector(Collector):
    """Reads the numbers of queues when somebody asks."""

    def __init__(self, backlogs: Backlogs, most: int) -> None:
        """Take the numbers.

        Args:
            backlogs: where they are.
            most: how many queues are shown.
        """
        self._backlogs = backlogs
        self._most = most

    def collect(self) -> Iterator[Metric]:
        """Give the series of all queues that are shown."""
        messages = GaugeMetricFamily(
            "pgqrs_queue_messages", "Messages by state; none is counted beyond 10,000.", labels=(*_QUEUE, "state")
        )
        oldest = GaugeMetricFamily(
            "pgqrs_queue_oldest_ready_age_seconds",
            "For how long the oldest ready message has been ready; 0 where none is.",
            labels=_QUEUE,
        )
        workers = GaugeMetricFamily(
            "pgqrs_queue_workers",
            "Workers by state; of stopped ones none is counted beyond 10,000.",
            labels=(*_QUEUE, "state"),
        )
        known = sorted(self._backlogs, key=lambda item: item[0])
        for key, (counts, _) in known[: self._most]:
            for state in ("ready", "delayed", "leased", "dead"):
                messages.add_metric((*key, state), getattr(counts.messages, state))
            oldest.add_metric(key, counts.oldest.total_seconds() if counts.oldest is not None else 0.0)
            for state in ("ready", "suspended", "stopped"):
                workers.add_metric((*key, state), getattr(counts, state))
        yield messages
        yield oldest
        yield workers
        yield GaugeMetricFamily("pgqrs_queues", "Queues whose messages are counted.", value=len(known))
        yield GaugeMetricFamily(
            "pgqrs_queues_not_shown",
            "Those of them that have no series of their own, because there are too many.",
            value=max(0, len(known) - self._most),
        )
