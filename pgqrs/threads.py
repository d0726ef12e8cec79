"""Threads for handlers that are plain functions.

Not those of `concurrent.futures`: the interpreter waits for them at its end, so that one handler that hangs would keep
a process from ending that was told twice to end. These are daemons, and end with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    _Work: TypeAlias = tuple[contextvars.Context, Callable[[], Any], asyncio.Future[Any]]


class Threads:
    """Runs functions, each in a thread that is free, and starts another one when none is."""

    def __init__(self) -> None:
        #: Called in the event loop when a function ends that nobody waits for any more.
        self.when_free: Callable[[], None] = _nothing
        #: Functions that go on though whoever waited for them was cancelled.
        self.abandoned = 0
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0

    async def run(self, context: contextvars.Context, function: Callable[[], Any]) -> Any:
        """Run a function and give what it returns.

        Cancelled, this ends at once, and the function goes on to its end without anyone who waits for it: threads
        cannot be stopped.
        """
        future = asyncio.get_running_loop().create_future()
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            threading.Thread(target=self._serve, name=f"pgqrs-handler-{self._threads}", daemon=True).start()
        self._work.put((context, function, future))
        try:
            return await future
        except asyncio.CancelledError:
            self.abandoned += future.cancelled()
            raise

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            context, function, future = work
            error: BaseException | None = None
            result: Any = None
            try:
                # Whoever asked may be gone before it began.
                result = None if future.cancelled() else context.run(function)
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
                error = raised
            # A loop that is closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(self._finish, future, result, error)

    def _finish(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if future.cancelled():
            self.abandoned -= 1
            self.when_free()
            return
        if isinstance(error, StopIteration):
            # A future refuses it, because it would end the coroutine that waits.
            error = RuntimeError("the handler raised StopIteration")
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def close(self) -> None:
        """Let the threads end, each when its function has returned."""
        for _ in range(self._threads):
            self._work.put(None)


def _nothing() -> None:
    """Do nothing."""
