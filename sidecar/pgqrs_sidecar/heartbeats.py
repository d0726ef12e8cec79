"""Sends the heartbeats of the pod's rows, one statement per interval, and passes on what others did to the rows.

A process whose event loop does not answer gets none: its row ages, and whoever watches the queue decides. It is not
stopped here, because slow is not dead.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from pgqrs import errors

if TYPE_CHECKING:
    from pgqrs.models import WorkerId
    from pgqrs_sidecar.rows import PodRows
    from pgqrs_sidecar.sessions import SessionServer
    from pgqrs_sidecar.settings import Settings

_log = logging.getLogger(__name__)


class Heartbeats:
    """The heartbeats of one pod."""

    def __init__(self, settings: Settings, rows: PodRows, sessions: SessionServer) -> None:
        self._settings = settings
        self._rows = rows
        self._sessions = sessions
        self._silent: set[WorkerId] = set()
        #: When the last heartbeat was sent, by the event loop's clock; None before the first.
        self.last: float | None = None
        #: How many the database took, one for all rows, and how many it did not.
        self.sent = 0
        self.failed = 0

    async def run(self) -> None:
        """Beat for ever; while the database does not answer, every interval tries again."""
        interval = self._settings.times.heartbeat
        loop = asyncio.get_running_loop()
        # The first beat comes at a random moment, so that pods that start together do not beat together.
        at = loop.time() + interval * random.uniform(0.2, 1.0)  # noqa: S311 - spreads load, guards nothing
        while True:
            await asyncio.sleep(max(0.0, at - loop.time()))
            self._note_silence(self._sessions.silent)
            try:
                self._sessions.push(await self._rows.beat(self._silent))
            except errors.DatabaseError:
                # Told once by whoever ran the statement; the next interval is the next attempt.
                _log.debug("heartbeat failed")
                self.failed += 1
            else:
                self.last = loop.time()
                self.sent += 1
                await self._adopt()
            at = max(at + interval, loop.time())

    async def _adopt(self) -> None:
        """After the heartbeat, so that what goes wrong here costs none."""
        try:
            self._sessions.push(await self._rows.adopt())
        except errors.DatabaseError:
            _log.debug("rows of unmodified apps were not looked for")

    def _note_silence(self, silent: set[WorkerId]) -> None:
        for worker_id in silent - self._silent:
            _log.warning("process does not answer, its heartbeats pause", extra={"worker_id": worker_id})
        for worker_id in self._silent - silent:
            _log.info("process answers again or has ended", extra={"worker_id": worker_id})
        self._silent = silent
