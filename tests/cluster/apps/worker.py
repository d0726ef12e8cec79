"""A consumer that keeps a ledger: `worker.py MODE`, where MODE says how it gets along with SIGTERM.

Each message says how long its handler takes (`seconds`; from its second delivery on `later`, where that differs), and
what happens to the process in the middle of its first delivery (`mishap`), or in the middle of each (`always`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import asyncpg

import pgqrs

CONCURRENCY = int(os.environ.get("CONCURRENCY", "2"))
#: Between two signs of life of a handler, in seconds.
SIGN_SECONDS = float(os.environ.get("SIGN_SECONDS", "0.5"))
#: Where a process that is ill says since when it runs, for the liveness probe of these tests: the file outlives it.
ILL = Path("/scratch/ill")

BEGIN = """
INSERT INTO ledger (message_id, attempt, worker_id, pod_uid, pod, container, process)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id
"""
SEEN = "UPDATE ledger SET seen_at = clock_timestamp() WHERE id = $1"
END = "UPDATE ledger SET seen_at = clock_timestamp(), ended_at = clock_timestamp() WHERE id = $1"


class Book:
    """The ledger, by one connection: the server of the tests has few."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def handle(self, message: pgqrs.Message) -> None:
        """Take as long as the message says, and write it down."""
        assert isinstance(message.payload, dict)
        seconds = float(message.payload.get("seconds", 0.2))
        if message.read_ct > 1:
            seconds = float(message.payload.get("later", seconds))
        ill = message.read_ct == 1 or message.payload.get("always")
        mishap = message.payload.get("mishap") if ill else None
        whose = [os.environ[name] for name in ("PGQRS_POD_UID", "PGQRS_POD_NAME", "PGQRS_CONTAINER")]
        entry = await self._write(BEGIN, message.id, message.read_ct, message.consumer_worker_id, *whose, os.getpid())
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            if mishap and left <= seconds / 2:
                suffer(mishap)
                mishap = None
            await asyncio.sleep(min(left, SIGN_SECONDS))
            await self._write(SEEN, entry)
        await self._write(END, entry)

    async def _write(self, statement: str, *values: object) -> object:
        async with self._turn:
            return await self._connection.fetchval(statement, *values)


def suffer(mishap: str) -> None:
    """Let something bad happen to this process."""
    if mishap == "exit":
        os._exit(3)
    elif mishap == "unhealthy":
        ILL.write_text(Path("/proc/1/stat").read_text().split()[21] + "\n")
    elif mishap == "out of memory":
        hoard = bytearray()
        while True:
            hoard += b"x" * (1 << 20)


async def run(consumer: pgqrs.Consumer, book: Book) -> None:
    """As most apps: drains when it is told to, by the sidecar or by SIGTERM."""
    await consumer.run(book.handle, concurrency=CONCURRENCY)


async def handles_sigterm(consumer: pgqrs.Consumer, book: Book) -> None:
    """An app with a loop and a signal handler of its own, which ends when SIGTERM says so and not before."""
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)

    async def consume() -> None:
        async for message in consumer:
            await book.handle(message)
            await consumer.archive(message.id)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consume())
        await terminated.wait()
        await consumer.drain()


async def ignores_sigterm(consumer: pgqrs.Consumer, book: Book) -> None:
    """An app that stays until it is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await consumer.run(book.handle, concurrency=CONCURRENCY, signals=False)
    await asyncio.Event().wait()


async def dies_of_sigterm(consumer: pgqrs.Consumer, book: Book) -> None:
    """An app that drops everything."""

    def die(*_: object) -> NoReturn:
        os._exit(143)

    # By default the kernel spares the first process of a container.
    signal.signal(signal.SIGTERM, die)
    await consumer.run(book.handle, concurrency=CONCURRENCY, signals=False)
    await asyncio.Event().wait()


async def until_empty(consumer: pgqrs.Consumer, book: Book) -> None:
    """A Job's app: handles what there is, then ends."""
    while messages := await consumer.dequeue(CONCURRENCY):
        for message in messages:
            await book.handle(message)
            await consumer.archive(message.id)


MODES = {mode.__name__: mode for mode in (run, handles_sigterm, ignores_sigterm, dies_of_sigterm, until_empty)}


async def main(mode: str) -> None:
    """Consume the queue that the pod's label names."""
    connection = await asyncpg.connect(os.environ["PGQRS_DSN"])
    try:
        async with pgqrs.Consumer() as consumer:
            await MODES[mode](consumer, Book(connection))
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
