"""An app as a test's pod runs it: consumes one message after the other, and tells as JSON lines what happens.

With `APP_LOOP=run` it leaves the loop to `Consumer.run`; with `APP_FORKS=1` it has a child process.

Like many real apps it does nothing on SIGTERM: it goes on until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

import pgqrs


def _tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def main(handler_seconds: float) -> None:
    """Consume until told to drain; then wait for the end, or say goodbye on SIGUSR1."""
    goodbye = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    loop.add_signal_handler(signal.SIGUSR1, goodbye.set)
    async with pgqrs.Consumer() as consumer:
        _tell("started", worker_id=consumer.worker_id)
        if os.environ.get("APP_FORKS"):
            _tell("forked", pid=_fork())
        consume = _run if os.environ.get("APP_LOOP") == "run" else _consume
        consuming = asyncio.create_task(consume(consumer, handler_seconds))
        await goodbye.wait()
        consuming.cancel()
        await asyncio.wait([consuming])
    _tell("ended")


def _fork() -> int:
    """Start a child as `multiprocessing` does, which outlives us."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    return child


async def _consume(consumer: pgqrs.Consumer, handler_seconds: float) -> None:
    async for message in consumer:
        _tell("leased", id=message.id, read_ct=message.read_ct)
        _misbehave(message.payload)
        await asyncio.sleep(handler_seconds)
        _tell("archived", id=message.id, archived=await consumer.archive(message.id))
    _tell("drained")


def _misbehave(payload: Any) -> None:
    """End as the message says, without a word to anyone, or keep the event loop for so many seconds."""
    match payload:
        case {"die": "abort"}:
            os.abort()
        case {"die": "exit"}:
            os._exit(3)
        case {"hang": seconds}:
            time.sleep(seconds)


async def _run(consumer: pgqrs.Consumer, handler_seconds: float) -> None:
    async def handle(message: pgqrs.Message) -> None:
        _tell("leased", id=message.id, read_ct=message.read_ct)
        await asyncio.sleep(handler_seconds)
        _tell("handled", id=message.id)

    await consumer.run(handle, concurrency=1, signals=False)
    _tell("drained")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
