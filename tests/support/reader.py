"""Runs the Python blocks of a Markdown page as written, against a real database.

From outside come only what a block uses without defining it, the database behind the page's DSN, and an `asyncio.sleep`
that is short. A loop without an end is cancelled once what it is there for has happened.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from tests.support.markdown import Block, blocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

_DEADLINE = 20.0


class _QuickAsyncio(ModuleType):
    """`asyncio` as the page's code sees it: nobody waits for an hour."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


class Reader:
    """Copies blocks of a page into programs and runs them."""

    #: The DSN of the pages' text.
    DSN = "postgresql://localhost/mydb"

    def __init__(self, page: Path, dsn: str, admin: pgqrs.Admin) -> None:
        self.page, self.dsn, self.admin = page, dsn, admin
        self.handled: list[Any] = []
        self._quick = _QuickAsyncio("asyncio")
        self._namespaces: list[dict[str, Any]] = []

    @staticmethod
    def blocks_of(page: Path, language: str = "python") -> dict[str, Block]:
        """Give the blocks of one language by heading and position under it, such as `Suspend 2`."""
        found: dict[str, Block] = {}
        for block in blocks(page, language):
            position = 1 + sum(1 for other in found.values() if other.heading == block.heading)
            found[f"{block.heading} {position}"] = block
        return found

    def _import(self, name: str, *args: Any) -> Any:
        return self._quick if name == "asyncio" else builtins.__import__(name, *args)

    async def _process_message(self, message: Any) -> None:
        self.handled.append(message)

    def namespace(self, **supplied: Any) -> dict[str, Any]:
        """What a block finds around it."""
        found = {
            "__name__": "page",
            "__builtins__": {**vars(builtins), "__import__": self._import},
            "asyncio": self._quick,
            "pgqrs": pgqrs,
            "Admin": pgqrs.Admin,
            "Producer": pgqrs.Producer,
            "Consumer": pgqrs.Consumer,
            "admin": self.admin,
            "dsn": self.dsn,
            "queue_name": "tasks",
            "process_message": self._process_message,
            **supplied,
        }
        self._namespaces.append(found)
        return found

    async def run(self, title: str, **supplied: Any) -> dict[str, Any]:
        """Execute a block to its end, and give its names."""
        found = self.namespace(**supplied)
        await self.execute(title, found)
        return found

    async def execute(self, title: str, namespace: dict[str, Any]) -> None:
        """Execute a block to its end in this namespace."""
        block = self.blocks_of(self.page)[title]
        source = "\n" * (block.line - 1) + block.code.replace(self.DSN, self.dsn)
        code = compile(source, self.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result = eval(code, namespace)
        if inspect.iscoroutine(result):
            await result

    async def until(self, running: Awaitable[Any], done: Callable[[], Awaitable[bool]]) -> None:
        """Let an endless loop run until this is done, then cancel it."""
        task = asyncio.ensure_future(running)
        try:
            async with asyncio.timeout(_DEADLINE):
                while not await done():
                    if task.done():
                        await task
                        pytest.fail("the loop ended before it had done its work")
                    await asyncio.sleep(0.02)
        finally:
            task.cancel()
            await asyncio.wait([task])
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def aclose(self) -> None:
        """Close what the blocks opened."""
        values = [value for namespace in self._namespaces for value in namespace.values()]
        workers = [v for v in values if isinstance(v, pgqrs.Producer | pgqrs.Consumer)]
        admins = [v for v in values if isinstance(v, pgqrs.Admin) and v is not self.admin]
        for value in [*workers, *admins]:
            await value.aclose()
