"""What is said of every resource of a database whose round failed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgqrs import errors, fleet
from pgqrs_operator import verdicts
from pgqrs_operator.drafting import DEFECT
from pgqrs_operator.farewell import tell_or_let_go
from pgqrs_operator.reports import MOST_EVENTS

if TYPE_CHECKING:
    from pgqrs_operator.assignment import Assignment
    from pgqrs_operator.reports import Reporter
    from pgqrs_operator.tables import Tables
    from pgqrs_operator.verdicts import Verdict

_log = logging.getLogger(__name__)

#: A text that came so often in a row is what is the matter.
_SURE = 5


class Outages:
    """Tells of one database's failures."""

    def __init__(self, reporter: Reporter, tables: Tables, where: str) -> None:
        """Begin without one; `where` is how logs name the database."""
        self._reporter = reporter
        self._tables = tables
        self._where = where
        #: Rounds that failed since the last complete one.
        self._failures = 0
        #: What is told, and the latest text with how often it came in a row.
        self._told = ""
        self._latest = ("", 0)

    def over(self) -> None:
        """Note that a round was complete."""
        self._failures, self._told, self._latest = 0, "", ("", 0)

    def _text(self, latest: str) -> str:
        """Give what is told of an outage: it may have texts in turn, and another one is a write for every resource."""
        text, times = self._latest
        self._latest = latest, times + 1 if text == latest else 1
        if not self._told or self._latest[1] >= _SURE:
            self._told = latest
        return self._told

    async def tell(self, error: Exception, assignment: Assignment) -> None:
        """Say of every resource what is wrong.

        Args:
            error: what ended the round.
            assignment: the resources.
        """
        self._failures += 1
        if isinstance(error, errors.DatabaseUnavailableError):
            # A deadlock, a lock that was not free, a server that starts anew: what passes at once changes no status.
            if self._failures > 1:
                await self._tell_all(verdicts.waiting("DatabaseUnavailable", self._text(str(error))), assignment)
        elif isinstance(error, errors.SchemaError):
            gone = await self._tables.are_gone()
            await self._tell_all(verdicts.stalled("SchemaNotUsable", str(error)), assignment, gone=gone)
        elif fleet.names_no_database(error):
            await self._tell_all(verdicts.stalled("DatabaseNotFound", str(error)), assignment, gone=True)
        elif isinstance(error, errors.PgqrsError):
            await self._tell_all(verdicts.stalled("DatabaseRefused", str(error)), assignment)
        else:
            # A defect that nobody met before must not end the operator for all others.
            _log.error("round failed", exc_info=error, extra={"database": self._where})
            await self._tell_all(DEFECT, assignment)

    async def _tell_all(self, verdict: Verdict, assignment: Assignment, *, gone: bool = False) -> None:
        """Say the same of every resource, and let those go that have waited for their deletion long enough.

        Args:
            verdict: what is wrong.
            assignment: the resources.
            gone: nothing of any queue can be left.
        """
        await self._reporter.in_time(
            tell_or_let_go(
                self._reporter,
                resource,
                verdict,
                gone=gone or resource.uid in assignment.orphans,
                quietly=number >= MOST_EVENTS,
            )
            for number, resource in enumerate([*assignment.queues, *assignment.workers])
        )
