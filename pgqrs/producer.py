"""Sending messages."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgqrs import errors, queues
from pgqrs.models import MessageId
from pgqrs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_DELAY = timedelta()


class Producer(Worker):
    """A worker that sends messages to its queue."""

    async def enqueue(self, payload: Any, *, delay: timedelta = _NO_DELAY) -> MessageId:
        """Send one message; when this returns, it is committed.

        Args:
            payload: anything that JSON can say.
            delay: how long nobody gets to see it.

        Raises:
            ValidationError: JSON cannot say the payload, or the delay is negative.
        """
        return (await self.enqueue_batch([payload], delay=delay))[0]

    async def enqueue_batch(self, payloads: Sequence[Any], *, delay: timedelta = _NO_DELAY) -> list[MessageId]:
        """Send several messages, all or none, in this order.

        Args:
            payloads: each of them anything that JSON can say.
            delay: how long nobody gets to see them.

        Raises:
            ValidationError: JSON cannot say one of them (the message tells which), or the delay is negative.
            QueueNotFoundError: the queue was deleted.
        """
        if delay < _NO_DELAY:
            message = f"The delay {delay} is negative; it is zero or more."
            raise errors.ValidationError(message)
        encoded = [_encode(payload, position) for position, payload in enumerate(payloads)]
        worker_id = await self.start()
        if self._queue_info is None:
            self._queue_info = await queues.get(self._db, self.queue)
        arguments = encoded, delay.total_seconds(), worker_id
        rows = await self._db.fetch("messages.enqueue", self._queue_info.id, *arguments)
        if encoded and not rows:
            # The queue was deleted since we looked; another one may have its name by now.
            self._queue_info = await queues.get(self._db, self.queue)
            rows = await self._db.fetch("messages.enqueue", self._queue_info.id, *arguments)
        if encoded and not rows:
            message = f"Queue {self.queue!r} was deleted while messages were sent to it; none of them was added."
            raise errors.QueueNotFoundError(message)
        return [MessageId(row["id"]) for row in rows]


def _encode(payload: Any, position: int) -> str:
    try:
        text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        message = f"Payload {position} cannot be written as JSON: {error}."
        raise errors.ValidationError(message) from error
    if "\\u0000" in text:
        message = f"Payload {position} holds the character U+0000, which PostgreSQL cannot store in jsonb."
        raise errors.ValidationError(message)
    return text
