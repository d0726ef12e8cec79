"""What `Consumer.run` counts, in plain numbers: a count costs next to nothing, and whoever wants to see it reads it.

There is one set for each queue of the process; `metrics` shows them to Prometheus.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

#: Upper bounds of the buckets of durations, in seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Durations:
    """How many durations fell into each bucket, and their sum in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


@dataclass(slots=True)
class Measures:
    """The counts of one queue."""

    #: Messages whose handler returned.
    handled: int = 0
    #: Messages whose handler raised, whatever became of them.
    failed: int = 0
    #: Of those, messages that are tried again, and messages that became dead letters.
    retried: int = 0
    dead_lettered: int = 0
    #: Messages that were somebody else's by the time they were completed.
    lost: int = 0
    #: Messages whose handler runs.
    in_flight: int = 0
    #: How long handlers took.
    handling: Durations = field(default_factory=Durations)
    #: How long messages could have been leased before they were, by the server's clock.
    waiting: Durations = field(default_factory=Durations)


_measures: dict[str, Measures] = {}


def of(queue: str) -> Measures:
    """Give the counts of a queue, from zero on where there are none yet."""
    return _measures.setdefault(queue, Measures())


def all_queues() -> dict[str, Measures]:
    """Give the counts of every queue that this process consumes."""
    return dict(_measures)
