"""Clears away, once a minute and in bounded batches, what the queues of one database keep no longer.

What is kept stands in the rows, so it holds whatever is wrong with a resource. Silent workers are not its matter: they
are part of the plan, which knows when silence says nothing. It never removes a live message. What PostgreSQL refuses
for one queue (a table of somebody else may refer to its messages) is done for the others all the same.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from pgqrs import errors, reaping
from pgqrs_operator.halves import by_halves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from pgqrs.database import Database
    from pgqrs_operator.metrics import Metrics

_log = logging.getLogger(__name__)

#: Between two passes, in seconds.
_INTERVAL_SECONDS = 60.0
#: Queues that one statement looks through.
_SLICE = 500
_KINDS: dict[str, Callable[[Database, Collection[str]], Awaitable[int]]] = {
    "exhausted_messages": reaping.exhausted_of,
    "archived_messages": reaping.archived_of,
    "dead_letters": reaping.dead_letters_of,
    "stopped_workers": reaping.stopped_workers_of,
}


class Reaper:
    """Looks after the queues that the database loop last named."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._names: tuple[str, ...] = ()
        self._named = asyncio.Event()

    def serve(self, names: Collection[str]) -> None:
        """Take the queues that are declared and have a row."""
        self._names = tuple(sorted(names))
        if self._names:
            self._named.set()
        else:
            self._named.clear()

    async def run(self) -> None:
        """Make a pass every minute, for ever."""
        while True:
            await self._named.wait()
            await self.once()
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def once(self) -> dict[str, int]:
        """Make one pass; give what was done, by its kind."""
        done = dict.fromkeys(_KINDS, 0)
        names = self._names
        for first in range(0, len(names), _SLICE):
            some = names[first : first + _SLICE]
            for kind in _KINDS:
                try:
                    await self._reap(kind, some, done)
                except errors.PgqrsError as error:
                    # The next pass goes on; the other kinds are tried all the same.
                    self._not_reaped(kind, some, str(error))
                except Exception:  # noqa: BLE001 - a defect must not end what runs for ever; it is logged
                    _log.exception("not reaped", extra={"database": self._database.where, "kind": kind})
        for kind, count in done.items():
            self._metrics.reaped(kind, count)
        if any(done.values()):
            _log.info("reaped", extra={"database": self._database.where, **done})
        return done

    async def _reap(self, kind: str, names: Sequence[str], done: dict[str, int]) -> None:
        """Do one kind for some queues, and add what was done."""

        async def reap(some: Sequence[str]) -> None:
            done[kind] += await _KINDS[kind](self._database, some)

        await by_halves(reap, names, batch=_SLICE, refused=partial(self._not_reaped, kind))

    def _not_reaped(self, kind: str, names: Sequence[str], text: str) -> None:
        more = {"queue": names[0], "queues": len(names), "error": text}
        _log.warning("not reaped", extra={"database": self._database.where, "kind": kind, **more})
