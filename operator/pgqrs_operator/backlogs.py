"""The latest numbers of every queue, for Prometheus and for whoever scales by them. In memory only.

The loops of the databases put them in; nobody who asks here causes a statement of its own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pgqrs.fleet import FleetCounts
    from pgqrs_operator.facts import Key

#: Numbers that are older are shown to nobody, in seconds: twice the time between two counts of all queues.
STALE_SECONDS = 60.0
#: A queue that somebody scales by is counted more often until so long after the last question, in seconds.
_INTEREST_SECONDS = 120.0


class Backlog(NamedTuple):
    """What was counted of one queue."""

    counts: FleetCounts
    #: When, by the monotonic clock.
    counted_at: float

    @property
    def age(self) -> float:
        """How long ago that was, in seconds."""
        return time.monotonic() - self.counted_at


class UnknownQueueError(LookupError):
    """There is no such `PgqrsQueue`."""


class Backlogs:
    """The numbers by the `PgqrsQueue` that they belong to."""

    def __init__(self) -> None:
        #: Every `PgqrsQueue` that is there; None before anybody looked.
        self._known: frozenset[Key] | None = None
        self._backlogs: dict[Key, Backlog] = {}
        self._asked_at: dict[Key, float] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Take the queues that are there; the numbers of others are forgotten."""
        known = self._known = frozenset(keys)
        self._backlogs = {key: backlog for key, backlog in self._backlogs.items() if key in known}
        self._asked_at = {key: at for key, at in self._asked_at.items() if key in known}

    def put(self, key: Key, backlog: Backlog | None) -> None:
        """Take what was counted of a queue; None where it has no numbers of its own."""
        if backlog is None:
            self._backlogs.pop(key, None)
        else:
            self._backlogs[key] = backlog

    def ask(self, key: Key) -> Backlog | None:
        """Give the numbers of a queue that somebody scales by; from then on it is counted more often for a while.

        Returns:
            None if there are none, or only such that are too old.

        Raises:
            UnknownQueueError: there is no such queue.
        """
        if self._known is None:
            return None
        if key not in self._known:
            raise UnknownQueueError
        self._asked_at[key] = time.monotonic()
        backlog = self._backlogs.get(key)
        return None if backlog is None or backlog.age > STALE_SECONDS else backlog

    def is_urgent(self, key: Key) -> bool:
        """Whether somebody asked for this queue not long ago."""
        at = self._asked_at.get(key)
        return at is not None and time.monotonic() - at <= _INTEREST_SECONDS

    def __iter__(self) -> Iterator[tuple[Key, Backlog]]:
        """Give all that are not too old."""
        return ((key, backlog) for key, backlog in list(self._backlogs.items()) if backlog.age <= STALE_SECONDS)
