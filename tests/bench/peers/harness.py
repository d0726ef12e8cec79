"""What every contender is, and what its handlers note. Times are of the monotonic clock, which all processes share."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

#: About 95 bytes of JSON, the same for everybody.
PAYLOAD: dict[str, Any] = {
    "kind": "email",
    "to": "user@example.org",
    "n": 12345,
    "tags": ["a", "b"],
    "x": "0123456789",
}
QUEUE = "bench"
#: No message for this long means that the backlog is gone and what was completed is flushed.
_QUIET_SECONDS = 0.4


@dataclass(slots=True)
class Handled:
    """What the handler saw."""

    count: int = 0
    last_at: float = 0.0
    #: Milliseconds from before the sending to the handler, in the order of handling.
    latencies: list[float] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    #: When the word was given.
    begun_at: float = 0.0

    def hit(self) -> None:
        """One message was handed over."""
        self.count += 1
        self.last_at = time.monotonic()
        self.changed.set()

    def arrived(self, sent_at: float) -> None:
        """One message was handed over that was sent at this time."""
        self.latencies.append((time.monotonic() - sent_at) * 1000)
        self.hit()

    async def reached(self, count: int) -> None:
        """Wait until so many were handed over."""
        while self.count < count:
            self.changed.clear()
            await self.changed.wait()

    async def quiet(self) -> None:
        """Wait until nothing has been handed over for a while."""
        while True:
            left = max(self.last_at, self.begun_at) + _QUIET_SECONDS - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)


class Peer(ABC):
    """One contender on one database."""

    def __init__(self, dsn: str, setting: dict[str, Any]) -> None:
        self.dsn = dsn
        self.setting = setting
        self.handled = Handled()

    @abstractmethod
    async def install(self) -> None:
        """Make the tables and the queue in an empty database."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, for all the other calls."""

    @abstractmethod
    async def one(self, payload: dict[str, Any]) -> None:
        """Send one message; it is committed at the end."""

    @abstractmethod
    async def many(self, count: int) -> None:
        """Send messages with the bench's payload in one call."""

    @abstractmethod
    async def drain(self) -> None:
        """Work with a no-op handler until nothing is left."""

    @abstractmethod
    async def serve(self) -> None:
        """Work until cancelled; the handler tells when each message was sent."""

    async def fill(self, count: int) -> None:
        """Make a backlog."""
        while count > 0:
            await self.many(min(count, 1000))
            count -= 1000

    async def drain_until_quiet(self, work: Awaitable[None]) -> None:
        """Run a loop that does not end by itself until the backlog is gone."""
        async with running(work):
            await self.handled.quiet()


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[None]:
    """Run something in the background for the length of a block; what it raises ends the block."""

    async def run() -> None:
        await work

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        yield
        task.cancel()


class FleetPeer(Peer):
    """A contender that also sends the heartbeats of many workers at once."""

    @abstractmethod
    async def populate(self, workers: int) -> None:
        """Make so many live workers."""

    @abstractmethod
    async def beat(self) -> None:
        """Send one heartbeat of each of them."""
