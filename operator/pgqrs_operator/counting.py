"""Counts the messages and workers of one database's queues, for people: rarely, and never twice for who is new."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pgqrs import errors, fleet

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgqrs.database import Database
    from pgqrs.fleet import FleetCounts

_log = logging.getLogger(__name__)

#: Between two counts of all queues, in seconds.
_INTERVAL_SECONDS = 30.0


class Counts:
    """The latest numbers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts: dict[str, FleetCounts] = {}
        self._asked: set[str] = set()
        self._counted_at = float("-inf")

    def of(self, name: str) -> FleetCounts | None:
        """Give the numbers of a queue, if it was counted."""
        return self._counts.get(name)

    async def refresh(self, names: Collection[str]) -> bool:
        """Count all where it is time to, and before that only those that were not asked for yet.

        Args:
            names: queues that have a row.

        Returns:
            Whether all were counted.
        """
        now = asyncio.get_running_loop().time()
        everything = now - self._counted_at >= _INTERVAL_SECONDS
        wanted = set(names) if everything else set(names) - self._asked
        if everything:
            self._counted_at = now
            self._asked.clear()
        self._asked |= wanted
        if wanted:
            try:
                found = await fleet.counts(self._database, wanted)
            except errors.DatabaseError as error:
                # Numbers are for people; what is declared comes true without them.
                _log.warning("messages not counted", extra={"database": self._database.where, "error": str(error)})
                return False
            self._counts = found if everything else {**self._counts, **found}
        return everything
