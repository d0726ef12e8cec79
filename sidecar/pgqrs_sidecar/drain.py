"""The drain of a pod that ends: no new messages, what is leased is finished, nothing is delivered twice.

It happens once in the life of a pod; whoever asks again waits for the same one. It frees nothing: a handler that is
still busy when the time is up has the rest of the pod's grace period, and what is left is freed when its process ends.

The hook of an app container asks for the drain of its container alone, because the kubelet calls it for two reasons
and does not say which: the pod ends, or a probe failed and this one container is started anew. In the first case the
sidecar's own hook is called at the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqrs import errors, lifecycle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqrs.database import Database
    from pgqrs.models import WorkerId
    from pgqrs_sidecar.rows import PodRows, StateChange
    from pgqrs_sidecar.sessions import SessionServer
    from pgqrs_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
#: What the last statement of a drain may take beyond its time, in seconds.
_SUSPEND_SECONDS = 2.0
#: How far apart the hooks of one pod's end may come, in seconds.
_HOOKS_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """How a drain ended."""

    #: Whether all processes finished and nothing is leased.
    drained: bool
    seconds: float
    #: Messages that the rows still hold, as far as the database could be asked.
    leased: int
    #: Processes that did not say that they are done.
    busy: int


class Drain:
    """The one drain of this pod, and those of its containers before it."""

    def __init__(self, database: Database, rows: PodRows, sessions: SessionServer, tasks: Tasks) -> None:
        self._database = database
        self._rows = rows
        self._sessions = sessions
        self._tasks = tasks
        self._begun = asyncio.Event()
        self._begun_at = 0.0
        self._done = asyncio.Event()
        self._result: DrainResult | None = None
        #: How many drains of single containers were asked for.
        self.containers = 0

    @property
    def begun(self) -> bool:
        """Whether it was asked for."""
        return self._begun.is_set()

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._done.is_set()

    @property
    def seconds(self) -> float | None:
        """How long it has taken until now, or took in all; None before it."""
        if self._result is not None:
            return self._result.seconds
        return asyncio.get_running_loop().time() - self._begun_at if self.begun else None

    def begin(self, seconds: float) -> None:
        """Start it if nobody has, to take at most so many seconds."""
        if self.begun:
            return
        self._begun_at = asyncio.get_running_loop().time()
        self._begun.set()
        self._rows.close()
        self._sessions.drain(seconds)
        self._tasks.passing("drain", self._run(seconds))

    async def wait(self) -> DrainResult:
        """Wait until it is over."""
        await self._done.wait()
        assert self._result is not None  # noqa: S101 - set before the event
        return self._result

    async def drain_container(self, container: str, seconds: float) -> DrainResult:
        """Let the processes of one container finish, in at most so many seconds.

        Where the pod's drain begins meanwhile, or has begun, this is over when that is, and the result is that one's.
        """
        self.containers += 1
        with self._sessions.draining(container, seconds):
            result = await self._finish(container, seconds)
            if self.begun:
                _log.info("drain of a container becomes the pod's", extra={"container": container})
                return await self.wait()
        _log.info("drain of a container is over", extra={"container": container, "drained": result.drained})
        return result

    async def _finish(self, container: str, seconds: float) -> DrainResult:
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        ids: set[WorkerId] = set()
        drained = False
        _log.info("drain of a container begins", extra={"container": container, "seconds": seconds})
        try:
            async with asyncio.timeout(seconds):
                while not (drained or self.begun):
                    came = {session.worker_id for session in self._sessions.of(container)} - ids
                    ids |= came
                    if came:
                        await self._until_answered(functools.partial(self._interrupt, came))
                    if ids:
                        await self._until_answered(self._rows.look)
                    drained = not (self._busy(container) or self._leased(ids))
                    if not drained:
                        await self._unless_begun(_POLL_SECONDS)
            # The pod's own hook may be on its way.
            await self._unless_begun(begun_at + min(_HOOKS_SECONDS, seconds) - loop.time())
        except TimeoutError:
            _log.warning("drain time of a container is up", extra={"container": container, "leased": self._leased(ids)})
        took = round(loop.time() - begun_at, 3)
        return DrainResult(drained=drained, seconds=took, leased=self._leased(ids), busy=self._busy(container))

    async def _unless_begun(self, seconds: float) -> None:
        """Sleep, and wake up when the drain of the pod begins."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._begun.wait()

    async def _interrupt(self, worker_ids: set[WorkerId]) -> list[StateChange]:
        """Keep messages from these workers; their rows stay the container's own, so nobody else is held back."""
        for worker_id in sorted(worker_ids):
            try:
                await lifecycle.interrupt(self._database, worker_id)
            except (errors.InvalidStateTransitionError, errors.WorkerNotFoundError):
                # It gets none already.
                continue
        return []

    def _leased(self, worker_ids: set[WorkerId]) -> int:
        return sum(info.leased for info in self._rows.seen.values() if info.id in worker_ids)

    async def _run(self, seconds: float) -> None:
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
                seconds=round(asyncio.get_running_loop().time() - self._begun_at, 3),
                leased=self._rows.leased,
                busy=self._busy(),
            )
            self._done.set()
        _log.info("drain is over", extra={"drained": drained, "took_seconds": self._result.seconds})

    def _busy(self, container: str | None = None) -> int:
        sessions = self._sessions.sessions if container is None else self._sessions.of(container)
        return sum(not session.drained for session in sessions)

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
