"""Messages that are written and checked, and how they are added to a queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from pgqrs import errors
from pgqrs.models import MessageId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pgqrs.database import Record

    Fetch: TypeAlias = Callable[..., Awaitable[list[Record]]]

#: How often a message is sent again because others with its key came and went at the same moments.
_KEY_ATTEMPTS = 50
#: By this name the server says that one of a key was archived while another one was added.
_KEY_TAKEN = "pgqrs_messages_archived_key"


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one producer."""

    worker_id: int
    texts: Sequence[str]
    #: For each text its delay in seconds, its headers as JSON or None, and its deduplication key or None.
    delays: Sequence[float]
    headers: Sequence[str | None]
    keys: Sequence[str | None]

    @property
    def keyed(self) -> bool:
        """Whether one of them has a key, so that it may take several statements to add all of them."""
        return any(key is not None for key in self.keys)

    async def insert_once(self, fetch: Fetch, queue_id: int) -> list[MessageId | None]:
        """Add them in one statement.

        Returns:
            Their ids; None for a message whose key others had at the same moment, which is to be sent again. An empty
            list says that there is no such queue.
        """
        if len(self.texts) == 1 and not self.keyed:
            rows = await fetch(
                "messages.enqueue_one", queue_id, self.texts[0], self.delays[0], self.worker_id, self.headers[0]
            )
            return [row["id"] for row in rows]
        if len(self.texts) == 1:
            one = (self.texts[0], self.delays[0], self.worker_id, self.headers[0], self.keys[0])
            return [row["id"] for row in await fetch("messages.enqueue_key", queue_id, *one)]
        plain = not self.keyed and all(text is None for text in self.headers)
        if plain and all(delay == self.delays[0] for delay in self.delays):
            rows = await fetch("messages.enqueue", queue_id, self.texts, self.delays[0], self.worker_id)
        else:
            rows = await fetch(
                "messages.enqueue_each", queue_id, self.texts, self.delays, self.worker_id, self.headers, self.keys
            )
        return [row["id"] for row in rows]

    async def insert(self, fetch: Fetch, queue_id: int) -> list[MessageId]:
        """Add messages none of which has a key; an empty list says that there is no such queue."""
        return [MessageId(found) for found in await self.insert_once(fetch, queue_id) if found is not None]

    async def insert_all(self, fetch: Fetch, queue_id: int) -> list[MessageId]:
        """Add them, until each is there or another one of its key is.

        Returns:
            Their ids, or those of the messages that have their keys; an empty list says that there is no such queue.

        Raises:
            DatabaseUnavailableError: others of the same keys come and go all the time.
        """
        found: list[MessageId | None] = [None] * len(self.texts)
        missing = list(range(len(self.texts)))
        for _ in range(_KEY_ATTEMPTS):
            ids = await self._part(missing).insert_once(fetch, queue_id)
            if not ids:
                return []
            for position, message_id in zip(missing, ids, strict=True):
                found[position] = message_id
            missing = [position for position in missing if found[position] is None]
            if not missing:
                return [MessageId(message_id) for message_id in found if message_id is not None]
        message = f"Messages of the key {self.keys[missing[0]]!r} come and go too fast to add one; try again."
        raise errors.DatabaseUnavailableError(message)

    def _part(self, positions: list[int]) -> Batch:
        return Batch(
            self.worker_id,
            [self.texts[position] for position in positions],
            [self.delays[position] for position in positions],
            [self.headers[position] for position in positions],
            [self.keys[position] for position in positions],
        )


async def settled(insert: Callable[[int], Awaitable[list[MessageId]]], queue_id: int) -> list[MessageId]:
    """Add messages to a queue, from the beginning where the server finds that a key of theirs was used meanwhile.

    Args:
        insert: adds all of them or none to the queue of this id.
        queue_id: the queue.

    Raises:
        DatabaseUnavailableError: others of the same keys come and go all the time.
    """
    for _ in range(_KEY_ATTEMPTS):
        try:
            return await insert(queue_id)
        except errors.DatabaseError as error:
            cause = error.__cause__
            if not isinstance(cause, asyncpg.UniqueViolationError) or cause.constraint_name != _KEY_TAKEN:
                raise
    message = "Messages of the same keys come and go too fast to add one; try again."
    raise errors.DatabaseUnavailableError(message)
