"""Counts the messages and workers of one database: all queues rarely, those that somebody scales by more often."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from typing import TYPE_CHECKING

from pgqrs import errors, fleet
from pgqrs_operator.backlogs import Backlog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pgqrs.database import Database
    from pgqrs.fleet import FleetCounts

_log = logging.getLogger(__name__)

#: Between two counts of all queues, in seconds.
_INTERVAL_SECONDS = 30.0
#: Between two counts of the queues that somebody scales by, in seconds.
_URGENT_SECONDS = 5.0
#: Queues that one statement counts, so that none takes long.
_SLICE = 500
#: For so long one round counts anew what was counted before, in seconds; dead workers wait meanwhile. The next goes on.
_COUNTING_SECONDS = 2.0


class Counts:
    """The latest numbers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._backlogs: dict[str, Backlog] = {}
        #: What is shown to people: of each queue the numbers of the last time that all were counted, or its first ones.
        self._shown: dict[str, FleetCounts] = {}
        #: When each was last asked for, whether or not it could be counted.
        self._asked: dict[str, float] = {}
        self._counted_at = float("-inf")
        #: Those that are left of a count of all, in any order; None where none is under way.
        self._left: list[str] | None = None

    def of(self, name: str) -> FleetCounts | None:
        """Give the numbers of a queue for its status, where a change is a write: those of the last full count."""
        return self._shown.get(name)

    def backlog(self, name: str) -> Backlog | None:
        """Give the numbers of a queue and when it was counted, if it was."""
        return self._backlogs.get(name)

    async def refresh(self, names: Collection[str], urgent: Collection[str] = ()) -> bool:
        """Count all where it is time to; before that only those that were not asked for yet, and those that are urgent.

        Args:
            names: queues that have a row.
            urgent: those of them that somebody scales by.

        Returns:
            Whether numbers are due: all were counted just now, or cannot be; what takes long ends in a later round.
        """
        now = asyncio.get_running_loop().time()
        # These have nothing to show, and a status is not written twice for that: however many there are.
        first = set(names) - self._asked.keys()
        if self._left is None and now - self._counted_at >= _INTERVAL_SECONDS:
            self._counted_at = now
            self._left = [name for name in names if name not in first]
            random.shuffle(self._left)
            self._asked = dict.fromkeys(self._left, now)
        first |= {name for name in urgent if now - self._asked.get(name, now) >= _URGENT_SECONDS}
        self._asked.update(dict.fromkeys(first, now))
        try:
            for part in _slices(sorted(first)):
                self._shown = {**await self._count(part), **self._shown}
            while self._left and asyncio.get_running_loop().time() - now < _COUNTING_SECONDS:
                part, self._left = self._left[:_SLICE], self._left[_SLICE:]
                self._shown |= await self._count(part)
        except errors.DatabaseError as error:
            # Numbers are for people; what is declared comes true without them.
            _log.warning("messages not counted", extra={"database": self._database.where, "error": str(error)})
            due, self._left = self._left is not None, None
            return due
        if self._left is None or self._left:
            return False
        self._left = None
        self._shown = {name: counts for name, counts in self._shown.items() if name in self._asked}
        self._backlogs = {name: backlog for name, backlog in self._backlogs.items() if name in self._asked}
        return True

    async def _count(self, names: Collection[str]) -> dict[str, FleetCounts]:
        found = await fleet.counts(self._database, names)
        at = time.monotonic()
        self._backlogs |= {name: Backlog(counts, at) for name, counts in found.items()}
        return found


def _slices(names: Iterable[str]) -> Iterable[list[str]]:
    left = iter(names)
    while part := list(itertools.islice(left, _SLICE)):
        yield part
