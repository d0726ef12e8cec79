"""Owns the background tasks, so that none dies silently and none outlives the agent.

A task that is meant to run for ever and ends, for whatever reason but being cancelled, is a defect: it is logged and
ends the sidecar. The kubelet starts it again and the sessions come back, which beats an agent without heartbeats.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

_log = logging.getLogger(__name__)


class Tasks:
    """The background tasks of one agent."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        #: Set when a task ended that must not.
        self.failed = asyncio.Event()

    def eternal(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a task whose end is the agent's end."""
        self._start(name, coroutine, eternal=True)

    def passing(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a task that ends by itself; an error in it is logged and concerns nobody else."""
        self._start(name, coroutine, eternal=False)

    def _start(self, name: str, coroutine: Coroutine[Any, Any, None], *, eternal: bool) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(functools.partial(self._ended, eternal=eternal))

    def _ended(self, task: asyncio.Task[Any], *, eternal: bool) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.error("background task failed", exc_info=error, extra={"task": task.get_name()})
        if eternal:
            _log.critical("a task that must run for ever has ended, the sidecar ends", extra={"task": task.get_name()})
            self.failed.set()

    async def cancel(self, *names: str, timeout: float) -> None:
        """Cancel the tasks of these names and wait for them, at most `timeout` seconds."""
        await self._cancel({task for task in self._running if task.get_name() in names}, timeout)

    async def aclose(self, *, timeout: float) -> None:
        """Cancel all tasks and wait for them, at most `timeout` seconds."""
        await self._cancel(set(self._running), timeout)

    @staticmethod
    async def _cancel(tasks: set[asyncio.Task[Any]], timeout: float) -> None:
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, hanging = await asyncio.wait(tasks, timeout=timeout)
        for task in hanging:
            _log.warning("background task does not end", extra={"task": task.get_name()})
