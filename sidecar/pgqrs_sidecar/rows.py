"""The pod's worker rows: registered ahead of the processes, handed to them, stopped when they end.

The pod always has a row while it lives: one without a process ("spare") waits for the next process. What the rows
should be is written down at once and brought about by `run`, which tries until the database has it; so a process that
dies during an outage is not forgotten. A row is only ever stopped here when its process is known to have ended;
silence alone never is a reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from pgqrs import errors, pods
from pgqrs_sidecar.book import Book, Ending, Orphan, StateChange
from pgqrs_sidecar.outage import Backoff
from pgqrs_sidecar.statements import PodStatements

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgqrs.database import Database
    from pgqrs.models import WorkerId, WorkerInfo
    from pgqrs_sidecar.outage import Outage
    from pgqrs_sidecar.settings import Settings

__all__ = ["ENDED", "PodRows", "StateChange"]

_log = logging.getLogger(__name__)

#: Why a row is stopped whose process said goodbye.
ENDED = "process ended"
#: How long the pod does without a row after a goodbye, in seconds: a Job's process says it, too, and then the pod ends.
_AFTER_GOODBYE_SECONDS = 3.0
#: Upstream's loop looks at its state every 250 ms, and leases by what it saw.
_UPSTREAM_LOOKS_SECONDS = 0.5


class PodRows:
    """All rows of this pod."""

    def __init__(self, database: Database, settings: Settings, outage: Outage) -> None:
        self._settings = settings
        self._book = Book()
        self._statements = PodStatements(database, settings, outage, self._book)
        #: Set once the pod has a row.
        self.registered = asyncio.Event()
        #: Whether rows were found that an earlier drain of this pod had marked.
        self.terminating = False
        #: How many messages became free when their workers were stopped, by why these were.
        self.released: Counter[str] = Counter()
        self._closed = False
        self._spare_at = 0.0
        self._making: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def seen(self) -> dict[WorkerId, WorkerInfo]:
        """The live rows as the database last showed them."""
        return self._book.seen

    @property
    def made(self) -> bool:
        """Whether this sidecar found rows of the pod or began to make one, so that there may be some to stop."""
        return self.registered.is_set() or self._making is not None

    @property
    def leased(self) -> int:
        """How many messages the pod's rows held when the database was last read, those of dead processes included."""
        return sum(info.leased for info in self.seen.values())

    # Handing out

    async def claim(self, queue: str, container: str | None) -> WorkerInfo:
        """Give a row to a new process: the spare one if it serves this queue, else a new one.

        Raises:
            WorkerNotReadyError: the pod is ending.
            QueueNotFoundError: there is no such queue.
            DatabaseError: the database does not answer, or refused.
        """
        async with self._statements.in_turn():
            self._refuse_if_closed()
            info = None
            if self._book.spare is not None and queue == self._settings.queue:
                info = await self._statements.assign(self._book.spare, queue, container)
                # Where nothing came back somebody stopped it. The pod needs another one then, also if this fails now.
                self._book.spare = None
                self._wake.set()
            if info is None:
                info = await self._statements.register(queue, container)
            self._book.hold(info)
            return info

    async def take_up(self, worker_id: WorkerId, queue: str, container: str | None) -> WorkerInfo:
        """Give a row back to the process that had it before the sidecar was restarted.

        Raises:
            WorkerReplacedError: the row is stopped, or not this pod's, or another process has it.
            DatabaseError: the database does not answer, or refused.
        """
        # The process is alive, whatever the database says now, and however long the statements before this one take.
        self._postpone(worker_id)
        async with self._statements.in_turn():
            self._postpone(worker_id)
            info = None
            if not self._book.is_taken(worker_id):
                info = await self._statements.assign(worker_id, queue, container)
            if info is None:
                message = f"Worker {worker_id} is stopped or was replaced; register anew to go on working."
                raise errors.WorkerReplacedError(message)
            self._book.hold(info)
            return info

    def _postpone(self, worker_id: WorkerId) -> None:
        orphan = self._book.orphans.get(worker_id)
        if orphan is not None:
            orphan.deadline = self._now() + self._settings.times.rejoin

    def release(self, worker_id: WorkerId, reason: str) -> asyncio.Event:
        """Take a row back from a process that has ended; the event is set once the database shows it as stopped."""
        self._book.held.pop(worker_id, None)
        ending = self._book.ending.setdefault(worker_id, Ending(reason))
        self._spare_at = self._now() + (_AFTER_GOODBYE_SECONDS if reason == ENDED else 0.0)
        self._wake.set()
        return ending.stopped

    def lend(self, worker_id: WorkerId) -> None:
        """Let a row be taken up by another connection of the process that has it."""
        self._book.held.pop(worker_id, None)
        self._book.orphans[worker_id] = Orphan(self._now() + self._settings.times.rejoin, None)
        self._wake.set()

    def close(self) -> None:
        """Hand out no more rows and make no new ones, because the pod ends."""
        self._closed = True

    def _refuse_if_closed(self) -> None:
        if self._closed:
            message = "The pod is ending; no new worker starts here."
            raise errors.WorkerNotReadyError(message)

    # Watching. All of these raise DatabaseError where the database does not answer, or refuses.

    async def beat(self, silent: Collection[WorkerId]) -> list[StateChange]:
        """Send the heartbeats of the pod's rows, and tell which states changed from outside.

        Args:
            silent: rows whose processes do not answer.
        """
        changes = await self._statements.beat(silent)
        if self._book.lacks_spare:
            # Somebody may have stopped the one that there was.
            self._wake.set()
        return changes

    async def adopt(self) -> list[StateChange]:
        """Look after the rows of unmodified apps that have come since the last time."""
        async with self._statements.in_turn():
            fresh = await self._statements.adopt()
        return await self._statements.read(pods.begin_termination) if fresh and self._closed else []

    async def begin_termination(self) -> list[StateChange]:
        """Mark the pod's rows as ending, those of unmodified apps too; see `pods.begin_termination`."""
        changes = await self.adopt()
        changes += await self._statements.read(pods.begin_termination)
        if self._book.adopted:
            await asyncio.sleep(_UPSTREAM_LOOKS_SECONDS)
            changes += await self.look()
        return changes

    async def suspend(self) -> list[StateChange]:
        """Suspend the rows that hold nothing any more; see `pods.suspend`."""
        return await self._statements.read(pods.suspend)

    async def look(self) -> list[StateChange]:
        """Read the pod's rows without touching them, and tell which states changed from outside."""
        return await self._statements.read(pods.live)

    async def stop(self, *, reason: str) -> dict[WorkerId, int]:
        """Stop all rows of the pod and free what they hold."""
        async with self._statements.in_turn():
            released = await self._statements.stop_all(reason)
        self.released[reason] += sum(released.values())
        return released

    # Bringing about

    async def recover(self) -> None:
        """Find the rows of this pod from before a restart, then make sure that it has one; tries until it is done."""
        backoff = Backoff(first=0.2, most=5.0)
        complaint = ""
        while not self.registered.is_set():
            try:
                await self._find()
                await self._keep_spare()
                self.registered.set()
            except errors.PgqrsError as error:
                if not isinstance(error, errors.DatabaseError) and str(error) != complaint:
                    complaint = str(error)
                    _log.warning("the pod cannot be registered yet", extra={"error": complaint})
                await asyncio.sleep(backoff.pause())

    async def run(self) -> None:
        """Stop the rows whose processes ended and keep a spare one, for ever; call it after `recover`."""
        backoff = Backoff(first=0.2, most=5.0)
        complaint = ""
        while True:
            self._wake.clear()
            try:
                await self._expire_orphans()
                await self._stop_ended()
                await self._keep_spare()
                backoff.reset()
                complaint = ""
                wait = self._until_due()
            except errors.PgqrsError as error:
                if not isinstance(error, errors.DatabaseError) and str(error) != complaint:
                    complaint = str(error)
                    _log.warning("no row for the next process yet", extra={"error": complaint})
                wait = backoff.pause()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _until_due(self) -> float | None:
        """For how long nothing is to be done unless something happens, in seconds; None is for ever."""
        moments = [orphan.deadline for orphan in self._book.orphans.values()]
        if self._book.lacks_spare and not self._closed:
            moments.append(self._spare_at)
        return max(0.0, min(moments) - self._now()) if moments else None

    async def _find(self) -> None:
        async with self._statements.in_turn():
            live = await self._statements.find()
        self.terminating = any(info.terminating for info in live)
        deadline = self._now() + self._settings.times.rejoin
        for info in live:
            # An app that chose a hostname of its own looks after itself, and an unmodified one has no session.
            if info.hostname == self._settings.hostname and info.id not in self._book.adopted:
                # That heartbeat covers the wait; from then on a newer one is the process's own.
                self._book.orphans[info.id] = Orphan(deadline, info.heartbeat_at)
        if self._book.orphans:
            _log.info("waiting for processes from before the restart", extra={"worker_ids": sorted(self._book.orphans)})

    async def _expire_orphans(self) -> None:
        orphans = self._book.orphans
        if not any(orphan.deadline <= self._now() for orphan in orphans.values()):
            return
        # During an outage a living process could not show itself: only a look after its time counts.
        await self.look()
        for worker_id, orphan in list(orphans.items()):
            if orphan.deadline <= self._now():
                del orphans[worker_id]
                self._book.ending[worker_id] = Ending("process died while its sidecar was restarted")

    async def _stop_ended(self) -> None:
        ending = self._book.ending
        for reason in {one.reason for one in ending.values()}:
            ids = sorted(worker_id for worker_id, one in ending.items() if one.reason == reason)
            released = await self._statements.stop(ids, reason)
            for worker_id in ids:
                ending.pop(worker_id).stopped.set()
                self.seen.pop(worker_id, None)
                held = released.get(worker_id, 0)
                self.released[reason] += held
                _log.info("worker stopped", extra={"worker_id": worker_id, "reason": reason, "released": held})

    async def _keep_spare(self) -> None:
        if self._book.lacks_spare and not self._closed and self._spare_at <= self._now():
            # Not cut off where the pod's end cancels us: the row could come after all of them were stopped, while like
            # this `stop` waits for it.
            self._making = asyncio.create_task(self._make_spare(), name="spare row")
            self._making.add_done_callback(_heard)
            await asyncio.shield(self._making)

    async def _make_spare(self) -> None:
        async with self._statements.in_turn():
            if self._book.lacks_spare and not self._closed:
                self._book.spare = (await self._statements.register(self._settings.queue, None)).id

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _heard(task: asyncio.Task[None]) -> None:
    """Take note of a task's error, which is nobody's concern where nobody waits for the task any more."""
    if not task.cancelled():
        task.exception()
