"""The drain of a pod that ends: no new messages, what is leased is finished, nothing is delivered twice.

It happens once in the life of a pod; whoever asks again waits for the same one. It frees nothing: a handler that is
still busy when the time is up has the rest of the pod's grace period, and what is left is freed when its process ends.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqrs import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqrs_sidecar.rows import PodRows, StateChange
    from pgqrs_sidecar.sessions import SessionServer
    from pgqrs_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
#: What the last statement of a drain may take beyond its time, in seconds.
_SUSPEND_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """How a drain ended."""

    #: Whether all processes finished and nothing is leased.
    drained: bool
    seconds: float
    #: Messages that the pod's rows still hold, as far as the database could be asked.
    leased: int
    #: Processes that did not say that they are done.
    busy: int


class Drain:
    """The one drain of this pod."""

    def __init__(self, rows: PodRows, sessions: SessionServer, tasks: Tasks) -> None:
        self._rows = rows
        self._sessions = sessions
        self._tasks = tasks
        self._done = asyncio.Event()
        self._result: DrainResult | None = None
        #: Whether it was asked for.
        self.begun = False

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._done.is_set()

    def begin(self, seconds: float) -> None:
        """Start it if nobody has, to take at most so many seconds."""
        if self.begun:
            return
        self.begun = True
        self._rows.close()
        self._sessions.drain(seconds)
        self._tasks.passing("drain", self._run(seconds))

    async def wait(self) -> DrainResult:
        """Wait until it is over."""
        await self._done.wait()
        assert self._result is not None  # noqa: S101 - set before the event
        return self._result

    async def _run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        _log.info("drain begins", extra={"seconds": seconds, "sessions": len(self._sessions.sessions)})
        drained = False
        try:
            try:
                async with asyncio.timeout(seconds):
                    await self._until_answered(self._rows.begin_termination)
                    while self._busy() or self._rows.leased:
                        await asyncio.sleep(_POLL_SECONDS)
                        await self._until_answered(self._rows.look)
                    drained = True
            except TimeoutError:
                _log.warning(
                    "drain time is up", extra={"leased": self._rows.leased, "busy": self._busy(), "seconds": seconds}
                )
            await self._suspend()
        finally:
            self._result = DrainResult(
                drained=drained,
                seconds=round(loop.time() - begun_at, 3),
                leased=self._rows.leased,
                busy=self._busy(),
            )
            self._done.set()
        _log.info("drain is over", extra={"drained": drained, "took_seconds": self._result.seconds})

    def _busy(self) -> int:
        return sum(not session.drained for session in self._sessions.sessions)

    async def _until_answered(self, statement: Callable[[], Awaitable[list[StateChange]]]) -> None:
        """Run a statement until the database answers it, and tell the sessions what it showed."""
        while True:
            try:
                self._sessions.push(await statement())
            except errors.DatabaseError:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return

    async def _suspend(self) -> None:
        try:
            async with asyncio.timeout(_SUSPEND_SECONDS):
                self._sessions.push(await self._rows.suspend())
        except (TimeoutError, errors.DatabaseError):
            # The rows stay interrupted, which holds messages back just as well.
            _log.warning("rows could not be suspended at the end of the drain")
