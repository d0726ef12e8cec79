"""Puts e-mails into the queue that the pod's label names: `enqueue.py COUNT`."""

import asyncio
import sys

import pgqrs

BATCH = 100


async def main(count: int) -> None:
    async with pgqrs.Producer() as producer:
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            # A batch is sent as a whole or not at all; when this returns, it is committed.
            await producer.enqueue_batch([{"to": f"user-{number}@example.com"} for number in numbers])
    print(f"{count} messages sent")


asyncio.run(main(int(sys.argv[1])))
