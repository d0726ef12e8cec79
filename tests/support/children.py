"""Processes of a test that consume; nothing of them outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.consuming import QUEUE, becomes, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CHECKOUT = Path(__file__).parents[2]


class Child:
    """A process of `tests.support.consuming_child`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[list[str]] = []
        self.log = ""
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            words = line.decode().split()
            if words and words[0] in {"ready", "begun", "ended", "returned"}:
                self.lines.append(words)
            else:
                self.log += line.decode()

    def said(self, word: str) -> list[int]:
        """Give the numbers of the lines that begin with this word."""
        return [int(line[1]) for line in self.lines if line[0] == word and len(line) > 1]

    @property
    def worker_id(self) -> int:
        """The row of its consumer."""
        return self.said("ready")[0]

    @property
    def has_ended(self) -> bool:
        """Whether the process is over."""
        return self._process.returncode is not None

    async def begun(self, *message_ids: int) -> None:
        """Wait until exactly these messages were begun, in whatever order."""
        await becomes(lambda: self._said_while_it_lives("begun"), sorted(message_ids))

    async def ended(self, *message_ids: int) -> None:
        """Wait until exactly these messages were ended."""
        await becomes(lambda: self._said_while_it_lives("ended"), sorted(message_ids))

    def _said_while_it_lives(self, word: str) -> list[int]:
        said = sorted(self.said(word))
        assert said or not self.has_ended, self.log
        return said

    async def logged(self, text: str) -> None:
        """Wait until its log says this."""

        async def look() -> bool:
            return text in self.log

        await eventually(look)

    def go(self) -> None:
        """Let the handlers end that wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.send(signal.SIGKILL)
        assert await self.exit_code() == -signal.SIGKILL

    async def exit_code(self, *, within: float = 30.0) -> int:
        """Wait for its end."""
        try:
            async with asyncio.timeout(within):
                code = await self._process.wait()
                await self._reader
        except TimeoutError:
            message = f"the process still runs after {within} s; it said {self.lines} and {self.log}"
            raise AssertionError(message) from None
        return code

    async def end(self) -> None:
        """Kill it if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader
        assert self._process.stdin is not None
        self._process.stdin.close()


@asynccontextmanager
async def child(dsn: str, **told: Any) -> AsyncIterator[Child]:
    """Start a process that consumes, and wait until its worker is registered."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.consuming_child",
        json.dumps({"dsn": dsn, "queue": QUEUE, "concurrency": 10} | told),
        env={"PATH": os.environ["PATH"]},
        cwd=_CHECKOUT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    started = Child(process)
    try:

        async def is_ready() -> bool:
            assert process.returncode is None, started.log
            return bool(started.said("ready"))

        await eventually(is_ready)
        yield started
    finally:
        await started.end()
