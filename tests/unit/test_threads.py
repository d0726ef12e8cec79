"""Threads for handlers: reused, counted when abandoned, and never in the way of the interpreter's end."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pgqrs.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads()
    yield made
    made.close()


async def run(threads: Threads, function: Callable[[], Any]) -> Any:
    return await threads.run(contextvars.copy_context(), function)


async def test_a_thread_is_used_again(threads: Threads) -> None:
    idents = [await run(threads, threading.get_ident) for _ in range(5)]
    assert len(set(idents)) == 1
    assert idents[0] != threading.get_ident()


async def test_as_many_run_at_once_as_are_called(threads: Threads) -> None:
    together = threading.Barrier(4)
    await asyncio.wait_for(asyncio.gather(*(run(threads, lambda: together.wait(20)) for _ in range(4))), 20)


async def test_what_a_function_returns_and_raises_is_handed_on(threads: Threads) -> None:
    assert await run(threads, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await run(threads, lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await run(threads, lambda: next(iter(())))
    with pytest.raises(asyncio.CancelledError):
        await run(threads, _cancelled)
    assert threads.abandoned == 0


def _cancelled() -> None:
    raise asyncio.CancelledError


async def test_who_is_cancelled_does_not_wait_and_the_function_counts_until_it_ends(threads: Threads) -> None:
    begun, go = threading.Event(), threading.Event()
    freed = asyncio.Event()
    threads.when_free = freed.set

    def wait() -> None:
        begun.set()
        go.wait(20)

    task = asyncio.create_task(run(threads, wait))
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threads.abandoned == 1
    assert not freed.is_set()
    go.set()
    await asyncio.wait_for(freed.wait(), 20)
    assert threads.abandoned == 0


async def test_threads_end_when_they_are_let_go() -> None:
    threads = Threads()
    thread = await run(threads, threading.current_thread)
    threads.close()
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()


def test_a_function_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = """
import asyncio, contextvars, threading
from pgqrs.threads import Threads

async def main():
    begun = threading.Event()
    def hang():
        begun.set()
        threading.Event().wait()
    task = asyncio.create_task(Threads().run(contextvars.copy_context(), hang))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    await asyncio.wait([task])
    print("over")

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (0, "over\n"), ended.stderr
