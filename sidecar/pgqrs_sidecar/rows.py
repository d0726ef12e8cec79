"""The pod's worker rows: registered ahead of the processes, handed to them, stopped when they end.

The pod always has a row while it lives: one without a process ("spare") waits for the next process. What the rows
should be is written down at once and brought about by `run`, which tries until the database has it; so a process that
dies during an outage is not forgotten. A row is only ever stopped here when its process is known to have ended;
silence alone never is a reason.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgqrs import errors, lifecycle, pods
from pgqrs.models import Timestamp, WorkerStatus
from pgqrs_sidecar.outage import Backoff

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pgqrs.database import Database
    from pgqrs.models import WorkerId, WorkerInfo
    from pgqrs_sidecar.outage import Outage
    from pgqrs_sidecar.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Orphan:
    """A row from before the sidecar was restarted, whose process may come back."""

    deadline: float
    #: The last heartbeat that the sidecar knows of; a newer one is the process's own. None: not to be compared.
    heartbeat_at: Timestamp | None


@dataclass(slots=True)
class _Ending:
    """A row whose process has ended and that the database does not show as stopped yet."""

    reason: str
    stopped: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class StateChange:
    """A row whose state somebody else changed."""

    worker_id: WorkerId
    status: WorkerStatus


class PodRows:
    """All rows of this pod."""

    def __init__(self, database: Database, settings: Settings, outage: Outage) -> None:
        self._database = database
        self._settings = settings
        self._outage = outage
        #: Set once the pod has a row.
        self.registered = asyncio.Event()
        #: Whether rows were found that an earlier drain of this pod had marked.
        self.terminating = False
        #: The live rows as the database last showed them.
        self.seen: dict[WorkerId, WorkerInfo] = {}
        self._spare: WorkerId | None = None
        self._held: dict[WorkerId, WorkerStatus] = {}
        self._orphans: dict[WorkerId, _Orphan] = {}
        self._ending: dict[WorkerId, _Ending] = {}
        self._closed = False
        self._wake = asyncio.Event()
        # Statements that return states run one after the other, or an older answer could be taken for the newer one.
        self._reading = asyncio.Lock()

    # Handing out

    async def claim(self, queue: str, container: str | None) -> WorkerInfo:
        """Give a row to a new process: the spare one if it serves this queue, else a new one.

        Raises:
            WorkerNotReadyError: the pod is ending.
            QueueNotFoundError: there is no such queue.
            DatabaseError: the database does not answer, or refused.
        """
        async with self._reading:
            self._refuse_if_closed()
            info = None
            if self._spare is not None and queue == self._settings.queue:
                with self._outage.watched():
                    info = await self._assign(self._spare, queue, container)
                # Where nothing came back somebody stopped the spare row, so it is of no use to anyone.
                self._spare = None
            if info is None:
                info = await self._register(queue, container)
            self._hold(info)
            return info

    async def take_up(self, worker_id: WorkerId, queue: str, container: str | None) -> WorkerInfo:
        """Give a row back to the process that had it before the sidecar was restarted.

        Raises:
            WorkerReplacedError: the row is stopped, or not this pod's, or another process has it.
            DatabaseError: the database does not answer, or refused.
        """
        # The process is alive, whatever the database says now, and however long the statements before this one take.
        self._postpone(worker_id)
        async with self._reading:
            self._postpone(worker_id)
            taken = worker_id in self._held or worker_id in self._ending or worker_id == self._spare
            info = None
            if not taken:
                with self._outage.watched():
                    info = await self._assign(worker_id, queue, container)
            if info is None:
                message = f"Worker {worker_id} is stopped or was replaced; register anew to go on working."
                raise errors.WorkerReplacedError(message)
            self._orphans.pop(worker_id, None)
            self._hold(info)
            return info

    def _postpone(self, worker_id: WorkerId) -> None:
        orphan = self._orphans.get(worker_id)
        if orphan is not None:
            orphan.deadline = self._now() + self._settings.times.rejoin

    def release(self, worker_id: WorkerId, reason: str) -> asyncio.Event:
        """Take a row back from a process that has ended; the event is set once the database shows it as stopped."""
        self._held.pop(worker_id, None)
        ending = self._ending.setdefault(worker_id, _Ending(reason))
        self._wake.set()
        return ending.stopped

    def lend(self, worker_id: WorkerId) -> None:
        """Let a row be taken up by another connection of the process that has it."""
        self._held.pop(worker_id, None)
        self._orphans[worker_id] = _Orphan(self._now() + self._settings.times.rejoin, None)
        self._wake.set()

    def close(self) -> None:
        """Hand out no more rows and make no new ones, because the pod ends."""
        self._closed = True

    def _refuse_if_closed(self) -> None:
        if self._closed:
            message = "The pod is ending; no new worker starts here."
            raise errors.WorkerNotReadyError(message)

    def _hold(self, info: WorkerInfo) -> None:
        self.seen[info.id] = info
        self._held[info.id] = _told(info.status)

    async def _assign(self, worker_id: WorkerId, queue: str, container: str | None) -> WorkerInfo | None:
        return await pods.assign(
            self._database, worker_id, pod_uid=self._settings.pod.uid, queue=queue, container=container
        )

    async def _register(self, queue: str, container: str | None) -> WorkerInfo:
        with self._outage.watched():
            info = await lifecycle.register(
                self._database,
                queue,
                hostname=self._settings.hostname,
                pod=replace(self._settings.pod, container=container),
            )
        self.seen[info.id] = info
        _log.info("worker registered", extra={"worker_id": info.id, "worker": info.name, "container": container})
        return info

    # Watching

    async def beat(self, silent: Collection[WorkerId]) -> list[StateChange]:
        """Send the heartbeats of the pod's rows, and tell which states changed from outside.

        Rows that this sidecar did not hand out send their own heartbeats: sent for them, a process that nobody watches
        would look alive for ever.

        Args:
            silent: rows whose processes do not answer.

        Raises:
            DatabaseError: the database does not answer, or refused.
        """
        async with self._reading:
            watched = set(self._held)
            known = dict(self.seen)
            strangers = {worker_id for worker_id in known if worker_id not in watched and worker_id != self._spare}
            with self._outage.watched():
                pulses = await pods.beat(
                    self._database, self._settings.pod.uid, silent={*silent, *strangers, *self._ending}
                )
                if pulses.keys() - known.keys():
                    # Somebody of the pod registered by itself.
                    live = await pods.live(self._database, self._settings.pod.uid)
                else:
                    live = [_with_pulse(known[worker_id], pulse) for worker_id, pulse in pulses.items()]
            return self._note(live, watched)

    async def begin_termination(self) -> list[StateChange]:
        """Mark the pod's rows as ending; see `pods.begin_termination`.

        Raises:
            DatabaseError: the database does not answer, or refused.
        """
        async with self._reading:
            watched = set(self._held)
            with self._outage.watched():
                live = await pods.begin_termination(self._database, self._settings.pod.uid)
            return self._note(live, watched)

    async def suspend(self) -> list[StateChange]:
        """Suspend the rows that hold nothing any more; see `pods.suspend`.

        Raises:
            DatabaseError: the database does not answer, or refused.
        """
        async with self._reading:
            watched = set(self._held)
            with self._outage.watched():
                live = await pods.suspend(self._database, self._settings.pod.uid)
            return self._note(live, watched)

    async def look(self) -> list[StateChange]:
        """Read the pod's rows without touching them, and tell which states changed from outside.

        Raises:
            DatabaseError: the database does not answer, or refused.
        """
        async with self._reading:
            watched = set(self._held)
            with self._outage.watched():
                live = await pods.live(self._database, self._settings.pod.uid)
            return self._note(live, watched)

    @property
    def leased(self) -> int:
        """How many messages the pod's rows held when the database was last read, those of dead processes included."""
        return sum(info.leased for info in self.seen.values())

    async def stop(self, *, reason: str) -> dict[WorkerId, int]:
        """Stop all rows of the pod and free what they hold.

        Raises:
            DatabaseError: the database does not answer, or refused.
        """
        # The lock keeps a registration that is under way from adding a row afterwards.
        async with self._reading:
            with self._outage.watched():
                return await pods.stop(self._database, self._settings.pod.uid, reason=reason)

    def _note(self, live: Iterable[WorkerInfo], watched: set[WorkerId]) -> list[StateChange]:
        """Remember what the database showed; only rows held before the statement ran are known to have been in it."""
        self.seen = {info.id: info for info in live}
        for worker_id, orphan in list(self._orphans.items()):
            info = self.seen.get(worker_id)
            if info is None:
                del self._orphans[worker_id]
            elif orphan.heartbeat_at is not None and info.heartbeat_at != orphan.heartbeat_at:
                # Somebody else sends its heartbeats, so its process lives and has no session on purpose.
                del self._orphans[worker_id]
        changes = []
        for worker_id in watched & self._held.keys():
            status = _told(self.seen[worker_id].status) if worker_id in self.seen else WorkerStatus.STOPPED
            if status != self._held[worker_id]:
                self._held[worker_id] = status
                changes.append(StateChange(worker_id, status))
        return changes

    # Bringing about

    async def recover(self) -> None:
        """Find the rows of this pod from before a restart, then make sure that it has one; tries until it is done."""
        backoff = Backoff(first=0.2, most=5.0)
        complaint = ""
        while not self.registered.is_set():
            try:
                await self._adopt()
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
            wait: float | None = None
            try:
                await self._expire_orphans()
                await self._stop_ended()
                await self._keep_spare()
                backoff.reset()
                complaint = ""
                if self._orphans:
                    wait = max(0.0, min(orphan.deadline for orphan in self._orphans.values()) - self._now())
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

    async def _adopt(self) -> None:
        uid = self._settings.pod.uid
        async with self._reading:
            with self._outage.watched():
                # One heartbeat for all, which covers the wait; from then on a newer one is the process's own.
                await pods.beat(self._database, uid)
                live = await pods.live(self._database, uid)
            self.seen = {info.id: info for info in live}
            self.terminating = any(info.terminating for info in live)
            deadline = self._now() + self._settings.times.rejoin
            for info in live:
                # An app that chose a hostname of its own looks after itself.
                if info.hostname == self._settings.hostname:
                    self._orphans[info.id] = _Orphan(deadline, info.heartbeat_at)
        if self._orphans:
            _log.info("waiting for processes from before the restart", extra={"worker_ids": sorted(self._orphans)})

    async def _expire_orphans(self) -> None:
        if not any(orphan.deadline <= self._now() for orphan in self._orphans.values()):
            return
        # During an outage a living process could not show itself: only a look after its time counts.
        await self.look()
        for worker_id, orphan in list(self._orphans.items()):
            if orphan.deadline <= self._now():
                del self._orphans[worker_id]
                self._ending[worker_id] = _Ending("process died while its sidecar was restarted")

    async def _stop_ended(self) -> None:
        for reason in {ending.reason for ending in self._ending.values()}:
            ids = sorted(worker_id for worker_id, ending in self._ending.items() if ending.reason == reason)
            with self._outage.watched():
                released = await lifecycle.stop(self._database, ids, reason=reason)
            for worker_id in ids:
                self._ending.pop(worker_id).stopped.set()
                self.seen.pop(worker_id, None)
                _log.info(
                    "worker stopped",
                    extra={"worker_id": worker_id, "reason": reason, "released": released.get(worker_id, 0)},
                )

    async def _keep_spare(self) -> None:
        async with self._reading:
            if not (self._closed or self._held or self._orphans or self._spare is not None):
                self._spare = (await self._register(self._settings.queue, None)).id

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _with_pulse(info: WorkerInfo, pulse: pods.Pulse) -> WorkerInfo:
    heartbeat_at = None if pulse.heartbeat_at is None else Timestamp.of(pulse.heartbeat_at)
    return replace(info, status=pulse.status, heartbeat_at=heartbeat_at, leased=pulse.leased)


def _told(status: WorkerStatus) -> WorkerStatus:
    """The state as sessions are told it: `polling` is upstream's way of being ready."""
    return WorkerStatus.READY if status is WorkerStatus.POLLING else status
