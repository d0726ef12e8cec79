"""What the sidecar knows of the pod's rows, in memory: who has which, and what the database last showed. No I/O.

A row is *held* by a process with a session, or it is the *spare* one that waits for the next process, or an *orphan*
whose process may come back, or *ending* because its process has ended, or *adopted* from an app that knows nothing of
the sidecar. Any other live row of the pod is a process's own that sends its own heartbeats.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgqrs.models import Timestamp, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgqrs.models import WorkerId, WorkerInfo
    from pgqrs.pods import Pulse


@dataclass(slots=True)
class Orphan:
    """A row whose process may come back."""

    #: Until when it is waited for, by the event loop's clock.
    deadline: float
    #: The last heartbeat that the sidecar knows of; a newer one is the process's own. None: not to be compared.
    heartbeat_at: Timestamp | None


@dataclass(slots=True)
class Ending:
    """A row whose process has ended and that the database does not show as stopped yet."""

    reason: str
    stopped: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class StateChange:
    """A row whose state somebody else changed."""

    worker_id: WorkerId
    status: WorkerStatus


class Book:
    """Who has which row."""

    def __init__(self) -> None:
        #: The live rows as the database last showed them.
        self.seen: dict[WorkerId, WorkerInfo] = {}
        self.spare: WorkerId | None = None
        #: With the state that the process was told.
        self.held: dict[WorkerId, WorkerStatus] = {}
        self.orphans: dict[WorkerId, Orphan] = {}
        self.ending: dict[WorkerId, Ending] = {}
        self.adopted: frozenset[WorkerId] = frozenset()

    def hold(self, info: WorkerInfo) -> None:
        """Note that a process has a row."""
        self.seen[info.id] = info
        self.held[info.id] = told(info.status)
        self.orphans.pop(info.id, None)

    def is_taken(self, worker_id: WorkerId) -> bool:
        """Whether no process may ask for this row."""
        return (
            worker_id in self.held or worker_id in self.ending or worker_id in self.adopted or worker_id == self.spare
        )

    @property
    def unwatched(self) -> set[WorkerId]:
        """The rows that get no heartbeats from here.

        Sent for them, a process that nobody watches would look alive for ever; those of the pod that register by
        themselves send their own.
        """
        ours = {*self.held, *self.adopted, self.spare}
        return {worker_id for worker_id in self.seen if worker_id not in ours} | self.ending.keys()

    @property
    def lacks_spare(self) -> bool:
        """Whether nobody has a row, nobody may come back to one, and none waits for the next process."""
        return not (self.held or self.orphans or self.spare is not None)

    def with_pulses(self, pulses: Mapping[WorkerId, Pulse]) -> list[WorkerInfo] | None:
        """Bring what was seen up to date; None where rows are among them that were never seen."""
        if pulses.keys() - self.seen.keys():
            return None
        return [
            replace(
                self.seen[worker_id],
                status=pulse.status,
                heartbeat_at=None if pulse.heartbeat_at is None else Timestamp.of(pulse.heartbeat_at),
                leased=pulse.leased,
            )
            for worker_id, pulse in pulses.items()
        ]

    def note(self, live: Iterable[WorkerInfo], watched: set[WorkerId]) -> list[StateChange]:
        """Remember what the database showed, and tell which states of held rows changed from outside.

        Args:
            live: the pod's live rows.
            watched: the rows that were held before the statement ran; only these are known to have been in it.
        """
        self.seen = {info.id: info for info in live}
        for worker_id, orphan in list(self.orphans.items()):
            info = self.seen.get(worker_id)
            if info is None:
                del self.orphans[worker_id]
            elif orphan.heartbeat_at is not None and info.heartbeat_at != orphan.heartbeat_at:
                # Somebody else sends its heartbeats, so its process lives and has no session on purpose.
                del self.orphans[worker_id]
        if self.spare not in self.seen:
            # Somebody stopped or removed it; it is of no use to anyone.
            self.spare = None
        changes = []
        for worker_id in watched & self.held.keys():
            status = told(self.seen[worker_id].status) if worker_id in self.seen else WorkerStatus.STOPPED
            if status != self.held[worker_id]:
                self.held[worker_id] = status
                changes.append(StateChange(worker_id, status))
        return changes


def told(status: WorkerStatus) -> WorkerStatus:
    """The state as sessions are told it: `polling` is upstream's way of being ready."""
    return WorkerStatus.READY if status is WorkerStatus.POLLING else status
