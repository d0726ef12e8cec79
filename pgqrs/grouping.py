"""Lets messages that are sent one by one at the same time share statements, and so commits.

Nothing waits for company: the first message goes at once, those that come while it is under way go together after it.
Each call returns when its own message is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from pgqrs import errors
from pgqrs.models import MessageId

#: The most messages of one statement, and the most characters of their payloads, unless one alone has more.
_MAX_MESSAGES = 1000
_MAX_CHARACTERS = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """A message that is written and checked; one with a deduplication key is none, because it goes alone."""

    text: str
    delay: float
    headers: str | None


#: Sends messages in one statement, and gives for each its id.
Send: TypeAlias = Callable[[list[Entry]], Awaitable[list[MessageId]]]


class Grouping:
    """The messages of one producer that wait to be sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[tuple[Entry, asyncio.Future[MessageId]]] = []
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    async def add(self, entry: Entry) -> MessageId:
        """Send a message with others, and give its id.

        Raises:
            PgqrsError: what was wrong with this message, or with the statement that it was part of.
        """
        if not self._busy:
            # Alone, and in the caller's own task: this costs what a statement costs.
            self._busy = True
            try:
                return (await self._send([entry]))[0]
            finally:
                self._go_on()
        future: asyncio.Future[MessageId] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, future))
        return await future

    def _go_on(self) -> None:
        if self._waiting:
            self._task = asyncio.get_running_loop().create_task(self._flush(), name="pgqrs-send")
        else:
            self._busy = False

    async def _flush(self) -> None:
        """Send what waits until nothing does."""
        try:
            while group := self._take():
                try:
                    await self._send_group(group)
                except asyncio.CancelledError:
                    self._refuse(group + self._waiting)
                    raise
        finally:
            self._busy = False

    def _take(self) -> list[tuple[Entry, asyncio.Future[MessageId]]]:
        characters = count = 0
        for entry, _ in self._waiting:
            characters += len(entry.text)
            if count and (characters > _MAX_CHARACTERS or count >= _MAX_MESSAGES):
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        # Whoever is gone does not want it sent any more.
        return [(entry, future) for entry, future in group if not future.done()] or (self._take() if group else [])

    async def _send_group(self, group: list[tuple[Entry, asyncio.Future[MessageId]]]) -> None:
        try:
            ids = await self._send([entry for entry, _ in group])
        except errors.ValidationError as error:
            if len(group) == 1:
                _fail(group, error)
                return
            # One of them cannot be stored, and took the others with it; halves find it.
            middle = len(group) // 2
            await self._send_group(group[:middle])
            await self._send_group(group[middle:])
        except Exception as error:  # noqa: BLE001 - it is theirs who wait
            _fail(group, error)
        else:
            for (_, future), message_id in zip(group, ids, strict=True):
                if not future.done():
                    future.set_result(message_id)

    def _refuse(self, group: list[tuple[Entry, asyncio.Future[MessageId]]]) -> None:
        self._waiting = []
        message = "The producer was closed while this was sent; whether it was added is not known."
        _fail(group, errors.WorkerNotReadyError(message))

    async def aclose(self) -> None:
        """Send nothing any more; those who wait are told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._refuse(self._waiting)


def _fail(group: list[tuple[Entry, asyncio.Future[MessageId]]], error: Exception) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)
