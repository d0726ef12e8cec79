"""A process that consumes as an app does: `python -m tests.support.consuming_child JSON`.

It prints what happens, one line each: `ready WORKER`, `begun MESSAGE`, `ended MESSAGE`, `returned`. A message whose
payload is "wait" is handled until a line comes in on stdin, one that says "exit" ends the process, and all others are
handled at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from datetime import timedelta
from typing import Any

import pgqrs


def say(*words: object) -> None:
    """Print a line that the test sees at once."""
    print(*words, flush=True)


async def main(told: dict[str, Any]) -> None:
    """Run one consumer to its end."""
    go = threading.Event()
    loop = asyncio.get_running_loop()
    going = asyncio.Event()

    def read() -> None:
        if sys.stdin.readline():
            go.set()
            loop.call_soon_threadsafe(going.set)

    threading.Thread(target=read, daemon=True).start()

    def begin(message: pgqrs.Message) -> None:
        say("begun", message.id)
        if message.payload == "exit":
            sys.exit(3)

    async def awaited(message: pgqrs.Message) -> None:
        begin(message)
        if message.payload == "wait":
            await going.wait()
        say("ended", message.id)

    def plain(message: pgqrs.Message) -> None:
        begin(message)
        if message.payload == "wait":
            go.wait()
        say("ended", message.id)

    options: dict[str, Any] = {
        name: timedelta(seconds=told[name]) for name in ("lease", "drain_timeout") if name in told
    }
    async with pgqrs.Consumer(told["dsn"], told["queue"]) as consumer:
        say("ready", consumer.worker_id)
        handler: Any = plain if told.get("plain") else awaited
        await consumer.run(handler, concurrency=told["concurrency"], **options)
        say("returned")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(json.loads(sys.argv[1])))
