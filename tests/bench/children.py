"""The parent's side: starts the programs that are measured, gives the word, and reads what they answer.

Each runs isolated, by the interpreter of its own environment; the checkout comes last on its path, because upstream's
package has the name of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_CHECKOUT = Path(__file__).resolve().parents[2]
_START = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), run_name='__main__')"
#: From the start of a process to READY, filling a backlog included.
_READY_SECONDS = 180.0


class ChildError(Exception):
    """A contender failed; the message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one process is to do."""

    python: Path
    module: str
    dsn: str
    verb: str
    setting: dict[str, Any]
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def argument(self) -> str:
        """The task as the child reads it."""
        return json.dumps({"dsn": self.dsn, "verb": self.verb, "setting": self.setting, **self.numbers})


class _Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, task: Task) -> _Child:
        process = await asyncio.create_subprocess_exec(
            task.python, "-I", "-c", _START, _CHECKOUT, f"tests.bench.peers.{task.module}", task.argument,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env={},
            # Ctrl-C is for us; the children are ended in our own time.
            start_new_session=True,
        )  # fmt: skip
        return cls(process)

    async def ready(self) -> None:
        line = await self._line()
        if line != "READY":
            self._answer(line)
            message = f"it said {line[:100]!r} instead of being ready"
            raise ChildError(message)

    async def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        await self._process.stdin.drain()

    async def answer(self) -> dict[str, float]:
        return self._answer(await self._line())

    def _answer(self, line: str) -> dict[str, float]:
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            message = f"it said {line[:100]!r} instead of its numbers"
            raise ChildError(message) from error
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if line:
            return line.decode().strip()
        assert self._process.stderr is not None
        said = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
        message = f"ended with code {await self._process.wait()}: {said[-1] if said else 'it said nothing'}"
        raise ChildError(message)

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # What it wrote and nobody read keeps the pipe, and so the wait, open.
        await self._process.communicate()


async def perform(
    tasks: Sequence[Task], *, seconds: float, before: Callable[[], Awaitable[None]] | None = None
) -> tuple[float, list[dict[str, float]]]:
    """Have processes do their tasks at the same time.

    Args:
        tasks: the first is made ready alone, because it may fill the backlog of all.
        seconds: how long they may take from the word to the last answer.
        before: what is done when all are ready, before the word is given.

    Returns:
        When the word was given, by the monotonic clock, and what each answered.

    Raises:
        ChildError: one of them failed or was too slow.
    """
    children: list[_Child] = []
    try:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                for number, task in enumerate(tasks):
                    children.append(await _Child.start(task))
                    if number == 0:
                        await children[0].ready()
                for child in children[1:]:
                    await child.ready()
                if before is not None:
                    await before()
        except TimeoutError as error:
            message = f"not ready within {_READY_SECONDS:.0f} s"
            raise ChildError(message) from error
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                for child in children:
                    await child.go()
                return began, [await child.answer() for child in children]
        except TimeoutError as error:
            message = f"no answer within {seconds:.0f} s"
            raise ChildError(message) from error
    finally:
        for child in children:
            await child.end()
