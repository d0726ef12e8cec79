"""Counts the messages and workers of one database: all queues rarely, those that somebody scales by more often."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from pgqrs import errors, fleet
from pgqrs_operator.backlogs import Backlog

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgqrs.database import Database
    from pgqrs.fleet import FleetCounts

_log = logging.getLogger(__name__)

#: Between two counts of all queues, in seconds.
_INTERVAL_SECONDS = 30.0
#: Between two counts of the queues that somebody scales by, in seconds.
_URGENT_SECONDS = 5.0


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
            Whether all were counted.
        """
        now = asyncio.get_running_loop().time()
        everything = now - self._counted_at >= _INTERVAL_SECONDS
        if everything:
            self._counted_at = now
            self._asked.clear()
            wanted = set(names)
        else:
            wanted = set(names) - self._asked.keys()
            wanted |= {name for name in urgent if now - self._asked.get(name, now) >= _URGENT_SECONDS}
        self._asked.update(dict.fromkeys(wanted, now))
        if wanted:
            try:
                found = await fleet.counts(self._database, wanted)
            except errors.DatabaseError as error:
                # Numbers are for people; what is declared comes true without them.
                _log.warning("messages not counted", extra={"database": self._database.where, "error": str(error)})
                return False
            at = time.monotonic()
            fresh = {name: Backlog(counts, at) for name, counts in found.items()}
            self._backlogs = fresh if everything else {**self._backlogs, **fresh}
            self._shown = found if everything else {**found, **self._shown}
        return everything
