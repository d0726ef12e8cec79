"""Receiving messages: leased, handled, archived, or given back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgqrs import errors, payloads, rows
from pgqrs.listener import Waiter
from pgqrs.models import MessageId, WorkerStatus
from pgqrs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import timedelta

    from pgqrs.admin import Admin
    from pgqrs.models import Message
    from pgqrs.payloads import Codec

logger = logging.getLogger(__name__)


class Consumer(Worker):
    """A worker that receives the messages of its queue.

    Example:
        ```python
        async with pgqrs.Consumer("postgresql://localhost/mydb", "emails") as consumer:
            async for message in consumer:
                await send_email(message.payload)
                await consumer.archive(message.id)
        ```
    """

    def __init__(
        self,
        database: str | Admin | None = None,
        queue: str | None = None,
        host: str | None = None,
        port: int | None = None,
        *,
        replace: bool = False,
        codec: Codec = payloads.DEFAULT_CODEC,
    ) -> None:
        """Remember what to register; see `Worker` for what stands in for an argument that is not given.

        Args:
            database: a DSN, or an `Admin` whose connections are shared.
            queue: the queue's name.
            host: the first half of the worker's identity.
            port: the second half.
            replace: take the identity even from a worker that is alive.
            codec: reads payloads.

        Raises:
            ConfigurationError: there is no DSN or no queue, neither given nor in the environment.
            ValidationError: an argument is not allowed.
        """
        super().__init__(database, queue, host, port, replace=replace)
        self._codec = codec

    async def dequeue(self, limit: int = 1, *, lease: timedelta | None = None) -> list[Message]:
        """Lease up to `limit` messages, oldest first; none while the worker or the queue is paused.

        Args:
            limit: the most messages, 1 to 10,000.
            lease: for how long they are this worker's alone; the queue's lease duration if not given.

        Raises:
            WorkerReplacedError: the worker was stopped or replaced.
            ValidationError: the limit is out of range, or the lease is not more than zero.
        """
        payloads.batch_size(limit)
        seconds = None if lease is None else payloads.seconds("lease", lease, positive=True)
        worker_id = await self.start()
        if self.draining:
            return []
        found = await self._db.fetch("messages.dequeue", worker_id, limit, seconds)
        self._check_alive(found[0]["worker_status"] if found else None)
        messages = []
        for row in found:
            if row["id"] is None:
                continue
            try:
                messages.append(rows.message(row, self._codec.loads))
            except Exception as error:  # noqa: BLE001 - a codec of the app's own may raise anything
                await self._give_up(MessageId(row["id"]), error)
        self._held.update(message.id for message in messages)
        return messages

    async def _give_up(self, message_id: MessageId, error: Exception) -> None:
        """Dead-letter a message that cannot be read: it would fail every time, and take its batch with it."""
        try:
            # The kind alone: the text of such errors quotes what was to be read.
            await self.dead_letter(message_id, f"the codec cannot read the payload ({type(error).__name__})")
        except errors.DatabaseError as trouble:
            # Its lease runs out, and it comes here again.
            logger.warning("unreadable message not given up", extra={"message_id": message_id, "error": str(trouble)})

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
        return (await self.delete_many([message_id]))[0]

    async def delete_many(self, message_ids: Sequence[int]) -> list[bool]:
        """Remove messages that are done without keeping them; for each whether it still was this worker's.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
            ValidationError: one of them is no id.
        """
        return await self._finish("messages.delete", message_ids)

    async def release(self, message_id: int, *, delay: timedelta | None = None) -> bool:
        """Give a message back, for others to see at once or after a delay; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
            ValidationError: it is no id, or the delay is negative.
        """
        return (await self.release_many([message_id], delay=delay))[0]

    async def release_many(self, message_ids: Sequence[int], *, delay: timedelta | None = None) -> list[bool]:
        """Give messages back, for others to see at once or after a delay; for each whether it still was this worker's.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
            ValidationError: one of them is no id, or the delay is negative.
        """
        seconds = 0.0 if delay is None else payloads.seconds("delay", delay)
        return await self._finish("messages.release", message_ids, seconds)

    async def dead_letter(self, message_id: int, reason: str) -> bool:
        """Put a message that can never succeed aside, with the reason; False when it was no longer this worker's.

        Nobody is handed it again until it is replayed (`Messages.replay`).

        Args:
            message_id: the message.
            reason: why, for those who read the list of dead letters; cut at 4,000 characters.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
            ValidationError: it is no id, or the reason is blank.
        """
        return (await self.dead_letter_many([message_id], reason))[0]

    async def dead_letter_many(self, message_ids: Sequence[int], reason: str) -> list[bool]:
        """Put messages that can never succeed aside; for each whether it still was this worker's.

        Args:
            message_ids: the messages.
            reason: why, for those who read the list of dead letters; cut at 4,000 characters.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
            ValidationError: one of them is no id, or the reason is blank.
        """
        return await self._finish("messages.dead_letter", message_ids, payloads.reason(reason))

    async def extend(self, message_id: int, duration: timedelta) -> bool:
        """Lengthen a message's lease by a duration; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
            ValidationError: it is no id, or the duration is not more than zero.
        """
        return (await self.extend_many([message_id], duration))[0]

    async def extend_many(self, message_ids: Sequence[int], duration: timedelta) -> list[bool]:
        """Lengthen the leases of messages by a duration; for each whether it still was this worker's.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
            ValidationError: one of them is no id, or the duration is not more than zero.
        """
        return await self._change("messages.extend", message_ids, payloads.seconds("duration", duration, positive=True))

    async def _finish(self, statement: str, message_ids: Sequence[int], *args: object) -> list[bool]:
        done = await self._change(statement, message_ids, *args)
        self._held.difference_update(map(MessageId, message_ids))
        self._report_drained()
        return done

    async def _change(self, statement: str, message_ids: Sequence[int], *args: object) -> list[bool]:
        ids = payloads.ids(message_ids)
        row = await self._db.fetch_row(statement, await self.start(), ids, *args)
        done = set(row["ids"]) if row else set()
        if ids and not done:
            self._check_alive(row["worker_status"] if row else None)
        return [message_id in done for message_id in ids]

    def _check_alive(self, status: str | None) -> None:
        if status is None or status == WorkerStatus.STOPPED:
            self._held.clear()
            message = f"Worker {self._worker_id} was stopped or replaced; make a new Consumer to go on working."
            raise errors.WorkerReplacedError(message)
