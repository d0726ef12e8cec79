"""Receiving messages: leased, handled, archived, or given back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pgqrs import errors, rows
from pgqrs.listener import Waiter
from pgqrs.models import MessageId, WorkerStatus
from pgqrs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import timedelta

    from pgqrs.models import Message

_MAX_BATCH = 10_000


class Consumer(Worker):
    """A worker that receives the messages of its queue."""

    async def dequeue(self, limit: int = 1, *, lease: timedelta | None = None) -> list[Message]:
        """Lease up to `limit` messages, oldest first; none while the worker or the queue is paused.

        Args:
            limit: the most messages, 1 to 10,000.
            lease: for how long they are this worker's alone; the queue's lease duration if not given.

        Raises:
            WorkerReplacedError: the worker was stopped or replaced.
            ValidationError: the limit is out of range.
        """
        if not 1 <= limit <= _MAX_BATCH:
            message = f"The limit {limit} is out of range; allowed are 1 to {_MAX_BATCH}."
            raise errors.ValidationError(message)
        worker_id = await self.start()
        if self.draining:
            return []
        found = await self._db.fetch(
            "messages.dequeue", worker_id, limit, lease.total_seconds() if lease is not None else None
        )
        self._check_alive(found[0]["worker_status"] if found else None)
        messages = [rows.message(row, json.loads) for row in found if row["id"] is not None]
        self._held.update(message.id for message in messages)
        return messages

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Give messages one by one until the worker is told to drain; while it is suspended, wait."""
        waiter = Waiter(self._db.listener, await self.start())
        try:
            while not self.draining:
                messages = await self.dequeue()
                if messages:
                    waiter.found()
                else:
                    await self._idle(waiter)
                for message in messages:
                    yield message
        finally:
            waiter.close()

    async def _idle(self, waiter: Waiter) -> None:
        """Wait until messages were sent, or a little while; less when a drain is requested meanwhile."""
        await waiter.wait(self._draining)

    async def archive(self, message_id: int) -> bool:
        """Say that a message is done; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
        """
        return (await self.archive_many([message_id]))[0]

    async def archive_many(self, message_ids: Sequence[int]) -> list[bool]:
        """Say that messages are done; for each whether it still was this worker's.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
        """
        return await self._finish("messages.archive", message_ids)

    async def delete(self, message_id: int) -> bool:
        """Remove a message that is done without keeping it; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
        """
        return (await self._finish("messages.delete", [message_id]))[0]

    async def release(self, message_id: int, *, delay: timedelta | None = None) -> bool:
        """Give a message back, for others to see at once or after a delay; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
        """
        seconds = delay.total_seconds() if delay is not None else 0.0
        return (await self._finish("messages.release", [message_id], seconds))[0]

    async def extend(self, message_id: int, duration: timedelta) -> bool:
        """Lengthen a message's lease; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
        """
        return (await self._change("messages.extend", [message_id], duration.total_seconds()))[0]

    async def _finish(self, statement: str, message_ids: Sequence[int], *args: object) -> list[bool]:
        done = await self._change(statement, message_ids, *args)
        self._held.difference_update(map(MessageId, message_ids))
        self._report_drained()
        return done

    async def _change(self, statement: str, message_ids: Sequence[int], *args: object) -> list[bool]:
        row = await self._db.fetch_row(statement, await self.start(), list(message_ids), *args)
        done = set(row["ids"]) if row else set()
        if message_ids and not done:
            self._check_alive(row["worker_status"] if row else None)
        return [message_id in done for message_id in message_ids]

    def _check_alive(self, status: str | None) -> None:
        if status is None or status == WorkerStatus.STOPPED:
            self._held.clear()
            message = f"Worker {self._worker_id} was stopped or replaced; make a new Consumer to go on working."
            raise errors.WorkerReplacedError(message)
