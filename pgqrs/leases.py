"""The messages that a run of a consumer holds, and what the database is told of them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqrs import errors
from pgqrs.models import MessageId, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from pgqrs.database import Database, Record
    from pgqrs.measures import Measures
    from pgqrs.models import Message, WorkerId

logger = logging.getLogger(__name__)

#: A lease is renewed when this share of it is over.
_RENEW_SHARE = 1 / 3
#: How long the last words to the database may take, in seconds.
_LAST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Share:
    """What a consumer and its run have in common."""

    queue: str
    #: All messages that the worker holds; also those that the app leased by itself beside the run.
    held: set[MessageId]
    #: Set when the worker is to finish and fetch no more.
    draining: asyncio.Event
    #: Called whenever messages were let go.
    let_go: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Failure:
    """A message whose handler raised."""

    message_id: MessageId
    #: Seconds until it is tried again, infinity for never, None for the queue's own back-off.
    delay: float | None
    reason: str


class Leases:
    """What one run holds. What handlers ended is collected here and goes with the next exchange.

    After a call whose answer was lost, the same is told again: what it did is not done twice, and what it leased
    without our knowledge is given back.
    """

    def __init__(
        self,
        db: Database,
        worker_id: WorkerId,
        share: Share,
        measures: Measures,
        *,
        archive: bool,
        lease: float | None,
    ) -> None:
        """Hold nothing yet.

        Args:
            db: where.
            worker_id: who holds the messages.
            share: what the consumer has in common with its run.
            measures: where to count.
            archive: whether messages that are done are kept.
            lease: seconds; None for the queue's own.
        """
        self._db = db
        self._worker_id = worker_id
        self._share = share
        self._measures = measures
        self._statement = "messages.archive_and_dequeue" if archive else "messages.delete_and_dequeue"
        self._lease = lease
        #: How long a lease is, as far as is known.
        self.seconds = lease or 30.0
        #: When each message was leased, by the loop's clock; what has ended stays until the database knows.
        self._leased: dict[MessageId, float] = {}
        #: The same of leases that were renewed.
        self._renewed: dict[MessageId, float] = {}
        self._done: list[MessageId] = []
        self._failed: list[Failure] = []
        self._back: list[MessageId] = []
        #: Since when there is something to tell, by the loop's clock.
        self.first_outcome_at: float | None = None
        self._unsure = False

    def age(self, message_id: MessageId) -> float:
        """How long ago a message was leased, in seconds."""
        now = asyncio.get_running_loop().time()
        return now - self._leased.get(message_id, now)

    def complete(self, messages: Iterable[Message]) -> None:
        """Collect messages that are done."""
        for message in messages:
            self._done.append(message.id)
        if self.first_outcome_at is None:
            self._mark()

    def fail(self, failures: Iterable[Failure]) -> None:
        """Collect messages that are not."""
        self._failed.extend(failures)
        self._mark()

    def give_back(self, message_ids: Iterable[MessageId]) -> None:
        """Collect messages that nobody began to handle."""
        self._back.extend(message_ids)
        self._mark()

    def _mark(self) -> None:
        if self.first_outcome_at is None:
            self.first_outcome_at = asyncio.get_running_loop().time()

    async def exchange(self, limit: int, since: datetime | None) -> list[Record] | None:
        """Tell what was collected, and lease up to so many messages from this `vt` on.

        Returns:
            The rows of the answer, the first of which tells of the worker; none where its row is gone, None where
            nothing was asked.

        Raises:
            DatabaseUnavailableError: nothing is known of what this did; the next call makes up for it.
        """
        done, failed, back = self._done, self._failed, self._back
        self._done, self._failed, self._back, self.first_outcome_at = [], [], [], None
        told_before = self._unsure
        try:
            await self._recover()
            if failed:
                await self._settle(failed)
                failed = []
            if back:
                await self._db.fetch_row("messages.give_back", self._worker_id, back)
                self._forget(back)
                back = []
            if not (done or limit):
                return None
            began = asyncio.get_running_loop().time()
            found = await self._db.fetch(self._statement, self._worker_id, limit, self._lease, since, done)
        except BaseException as error:
            self._done[:0], self._failed[:0], self._back[:0] = done, failed, back
            if self._done or self._failed or self._back:
                self._mark()
            self._unsure |= isinstance(error, errors.DatabaseUnavailableError | asyncio.CancelledError)
            raise
        self._forget(done)
        self._measures.handled += len(done)
        if found and found[0]["done"] < len(done) and not told_before:
            lost = len(done) - found[0]["done"]
            self._measures.lost += lost
            logger.warning("completed what was no longer ours", extra={"worker_id": self._worker_id, "count": lost})
        if len(found) > 1:
            self.seconds = found[0]["lease_seconds"]
            ids = [row["id"] for row in found[1:]]
            self._leased.update(dict.fromkeys(ids, began))
            self._share.held.update(ids)
        return found

    async def _recover(self) -> None:
        """Give back what we hold and do not know of.

        The lock waits for a call that we have given up and that still runs; the statement after it sees what that did.
        """
        if self._unsure:
            async with self._db.transaction() as transaction:
                await transaction.fetch("workers.lock", self._worker_id)
                await transaction.fetch("messages.give_back_others", self._worker_id, list(self._share.held))
            self._unsure = False

    async def _settle(self, failed: list[Failure]) -> None:
        row = await self._db.fetch_row(
            "messages.fail",
            self._worker_id,
            [failure.message_id for failure in failed],
            [failure.delay for failure in failed],
            [failure.reason for failure in failed],
        )
        dead = len(row["dead"]) if row else 0
        self._measures.dead_lettered += dead
        self._measures.retried += (len(row["ids"]) if row else 0) - dead
        self._forget([failure.message_id for failure in failed])

    def _forget(self, message_ids: list[MessageId]) -> None:
        if message_ids:
            for message_id in message_ids:
                self._leased.pop(message_id, None)
                self._renewed.pop(message_id, None)
            self._share.held.difference_update(message_ids)
            self._share.let_go()

    async def renew(self) -> WorkerStatus | None:
        """Let the leases that are old begin anew, all in one statement, and give the worker's state.

        Raises:
            WorkerNotFoundError: its row is gone.
            DatabaseUnavailableError: nothing was renewed.
        """
        now = asyncio.get_running_loop().time()
        due = now - self.seconds * _RENEW_SHARE
        old = [known for known, leased_at in self._leased.items() if self._renewed.get(known, leased_at) < due]
        if not old:
            return None
        row = await self._db.fetch_row("messages.renew", self._worker_id, old, self._lease)
        if row is None or row["worker_status"] is None:
            raise errors.WorkerNotFoundError
        self._renewed.update((message_id, now) for message_id in row["ids"] if message_id in self._leased)
        self.seconds = row["lease_seconds"] or self.seconds
        return WorkerStatus(row["worker_status"])

    async def say_goodbye(self) -> None:
        """Tell what was collected, and give back all that is left; what this can't do comes back with its lease."""
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self._recover()
                if self._done:
                    await self._db.fetch(self._statement, self._worker_id, 0, None, None, self._done)
                    self._measures.handled += len(self._done)
                    self._forget(self._done)
                if self._failed:
                    await self._settle(self._failed)
                if self._leased:
                    await self._db.fetch_row("messages.give_back", self._worker_id, list(self._leased))
        except (errors.PgqrsError, TimeoutError) as error:
            extra = {"worker_id": self._worker_id, "count": len(self._leased), "error": str(error)}
            logger.warning("messages not given back", extra=extra)

    def forget_all(self) -> None:
        """Hold nothing any more."""
        self._forget(list(self._leased))
