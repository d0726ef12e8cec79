"""What a child may be told to do."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.bench.peers.harness import PAYLOAD, FleetPeer, Peer, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: The most messages that a producer at a fixed rate has on their way.
_IN_FLIGHT = 64
#: How far apart the messages of the latency work are: (0.02 + one of seven steps of 2 ms) s.
_PAUSE_SECONDS = 0.02

Answer = dict[str, float]


class Verbs:
    """Each verb is a method: it says that it is ready, waits for the word by `go`, works, and gives its numbers."""

    def __init__(self, peer: Peer, task: dict[str, Any], go: Callable[[], Awaitable[None]]) -> None:
        self._peer = peer
        self._task = task
        self._go = go

    async def install(self) -> Answer:
        """Make the tables."""
        await self._peer.install()
        await self._go()
        return {"count": 0}

    async def fill(self) -> Answer:
        """Make a backlog."""
        await self._peer.fill(int(self._task["fill"]))
        await self._go()
        return {"count": self._task["fill"]}

    async def enqueue(self) -> Answer:
        """Send one by one from several tasks, until the time is up."""
        await asyncio.gather(*(self._peer.one(PAYLOAD) for _ in range(int(self._task["tasks"]))))
        await self._go()
        end = time.monotonic() + self._task["seconds"]

        async def send() -> int:
            count = 0
            while time.monotonic() < end:
                await self._peer.one(PAYLOAD)
                count += 1
            return count

        return {"count": sum(await asyncio.gather(*(send() for _ in range(int(self._task["tasks"])))))}

    async def enqueue_batch(self) -> Answer:
        """Send batches from one task, until the time is up."""
        size = int(self._task["size"])
        await self._peer.many(size)
        await self._go()
        end = time.monotonic() + self._task["seconds"]
        count = 0
        while time.monotonic() < end:
            await self._peer.many(size)
            count += size
        return {"count": count}

    async def drain(self) -> Answer:
        """Work until nothing is left; the end is when the last message was handed over."""
        if self._task.get("fill"):
            await self._peer.fill(int(self._task["fill"]))
        await self._go()
        await self._peer.drain()
        return {"count": self._peer.handled.count, "end": self._peer.handled.last_at}

    async def refill(self) -> Answer:
        """Work for a while on a backlog that is kept as it is: for every 500 handled, 500 are added.

        One of them is sent in the usual way, so that a worker that finds nothing for a moment is woken.
        """
        step = 500
        handled = self._peer.handled
        await self._go()

        async def add() -> None:
            wanted = step
            while True:
                await handled.reached(wanted)
                await self._peer.fill(step - 1)
                await self._peer.one(PAYLOAD)
                wanted += step

        async with running(self._peer.drain()), running(add()):
            await handled.reached(step)
            before, began = handled.count, time.monotonic()
            await asyncio.sleep(self._task["seconds"])
            count, seconds = handled.count - before, time.monotonic() - began
        return {"count": count, "seconds": seconds}

    async def beat(self) -> Answer:
        """Send heartbeats for a fleet, several times; the median time of one for all."""
        assert isinstance(self._peer, FleetPeer)
        await self._peer.populate(int(self._task["workers"]))
        await self._go()
        seconds = []
        for _ in range(int(self._task["beats"])):
            began = time.monotonic()
            await self._peer.beat()
            seconds.append(time.monotonic() - began)
        return {"count": self._task["workers"] * len(seconds), "beat": percentile(seconds, 0.5)}

    async def latency(self) -> Answer:
        """Send to an idle worker of the same process, one message after the other."""
        await self._go()
        handled = self._peer.handled
        async with running(self._peer.serve()):
            await self._peer.one({**PAYLOAD, "sent": time.monotonic()})
            await handled.reached(1)
            await asyncio.sleep(self._task["settle"])
            handled.latencies.clear()
            for number in range(int(self._task["messages"])):
                await self._peer.one({**PAYLOAD, "sent": time.monotonic()})
                await handled.reached(number + 2)
                await asyncio.sleep(_PAUSE_SECONDS + number % 7 / 500)
        return {"count": len(handled.latencies), **spread_of(handled.latencies)}

    async def offer(self) -> Answer:
        """Send at a fixed rate, whatever becomes of the messages."""
        await self._go()
        await asyncio.sleep(self._task["settle"])
        count = int(self._task["rate"] * self._task["seconds"])
        began = time.monotonic()
        slots = asyncio.Semaphore(_IN_FLIGHT)

        async def send() -> None:
            try:
                await self._peer.one({**PAYLOAD, "sent": time.monotonic()})
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(max(0.0, began + number / self._task["rate"] - time.monotonic()))
                await slots.acquire()
                group.create_task(send())
        return {"count": count}

    async def serve(self) -> Answer:
        """Work until so many messages were handled, or the time is up."""
        await self._go()
        handled = self._peer.handled
        async with running(self._peer.serve()):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._task["seconds"]):
                    await handled.reached(int(self._task["count"]))
        last_third = handled.latencies[-max(1, len(handled.latencies) // 3) :]
        return {
            "count": handled.count,
            **spread_of(handled.latencies),
            "p99_of_last_third": percentile(last_third, 0.99),
        }


def percentile(values: list[float], share: float) -> float:
    """Give the value that this share of all stays below; 0 where there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def spread_of(values: list[float]) -> Answer:
    """Give median, 99th percentile and the largest."""
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "largest": max(values, default=0.0)}
