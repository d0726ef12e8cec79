"""The statements about this pod's rows, one after the other, each noted in the outage and in the book.

One after the other, because an older answer could otherwise be taken for the newer one, and a registration that is
under way would add a row after all rows were stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from pgqrs import lifecycle, pods
from pgqrs_sidecar.unmodified import UnmodifiedApps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from pgqrs.database import Database
    from pgqrs.models import WorkerId, WorkerInfo
    from pgqrs_sidecar.book import Book, StateChange
    from pgqrs_sidecar.outage import Outage
    from pgqrs_sidecar.settings import Settings

_log = logging.getLogger(__name__)


class PodStatements:
    """Asks and tells the database; all methods raise `DatabaseError` where it does not answer, or refuses."""

    def __init__(self, database: Database, settings: Settings, outage: Outage, book: Book) -> None:
        self._database = database
        self._settings = settings
        self._uid = settings.pod.uid
        self._outage = outage
        self._book = book
        self._unmodified = UnmodifiedApps(database, settings.pod, outage)
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def in_turn(self) -> AsyncIterator[None]:
        """Wait until no other statement runs, and keep others from running."""
        async with self._lock:
            yield

    # Within `in_turn`

    async def register(self, queue: str, container: str | None) -> WorkerInfo:
        """Make a row.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        with self._outage.watched():
            info = await lifecycle.register(
                self._database,
                queue,
                hostname=self._settings.hostname,
                pod=replace(self._settings.pod, container=container),
            )
        self._book.seen[info.id] = info
        _log.info("worker registered", extra={"worker_id": info.id, "worker": info.name, "container": container})
        return info

    async def assign(self, worker_id: WorkerId, queue: str, container: str | None) -> WorkerInfo | None:
        """Give a row to a process; None where it is stopped, another pod's or another queue's."""
        with self._outage.watched():
            return await pods.assign(self._database, worker_id, pod_uid=self._uid, queue=queue, container=container)

    async def adopt(self) -> bool:
        """Take over the rows of unmodified apps that have come, and tell whether there were any."""
        fresh = await self._unmodified.adopt()
        self._book.adopted = self._unmodified.ids
        return bool(fresh)

    async def find(self) -> list[WorkerInfo]:
        """Give all live rows of the pod, after one heartbeat for each."""
        await self.adopt()
        with self._outage.watched():
            await pods.beat(self._database, self._uid)
            live = await pods.live(self._database, self._uid)
        self._book.note(live, set())
        return live

    async def stop_all(self, reason: str) -> dict[WorkerId, int]:
        """Stop all rows of the pod, those included that have just come; give how many messages each held."""
        await self.adopt()
        with self._outage.watched():
            return await pods.stop(self._database, self._uid, reason=reason)

    # In their own turn

    async def beat(self, silent: Collection[WorkerId]) -> list[StateChange]:
        """Send the heartbeats of the rows that are looked after here, but of the silent ones."""
        async with self._lock:
            watched = set(self._book.held)
            with self._outage.watched():
                pulses = await pods.beat(self._database, self._uid, silent={*silent, *self._book.unwatched})
                live = self._book.with_pulses(pulses)
                if live is None:
                    # Somebody of the pod registered by itself.
                    live = await pods.live(self._database, self._uid)
            return self._book.note(live, watched)

    async def read(self, statement: Callable[[Database, str], Awaitable[list[WorkerInfo]]]) -> list[StateChange]:
        """Run a statement that gives the pod's live rows."""
        async with self._lock:
            watched = set(self._book.held)
            with self._outage.watched():
                live = await statement(self._database, self._uid)
            return self._book.note(live, watched)

    async def stop(self, worker_ids: Collection[WorkerId], reason: str) -> dict[WorkerId, int]:
        """Stop rows whose processes ended; this waits for no other statement."""
        with self._outage.watched():
            return await lifecycle.stop(self._database, worker_ids, reason=reason, died=reason == lifecycle.DIED)
