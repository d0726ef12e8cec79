"""The child's side of a measurement: say READY, wait for the word, work, print one line of JSON.

The task comes as JSON in the only argument: the database, the verb, its numbers, and the contender's setting.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.bench.peers.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.peers.harness import Peer


def cpu_seconds() -> float:
    """How much CPU this process has used, its user's and the system's part."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _perform(make: Callable[[str, dict[str, Any]], Peer], task: dict[str, Any]) -> None:
    used: list[float] = []

    async def go() -> None:
        print("READY", flush=True)
        if not await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            # Who started this is gone.
            os._exit(1)
        peer.handled.begun_at = time.monotonic()
        used.append(cpu_seconds())

    peer = make(task["dsn"], task["setting"])
    if task["verb"] != "install":
        await peer.open()
    answer = await getattr(Verbs(peer, task, go), task["verb"])()
    answer.setdefault("end", time.monotonic())
    answer.setdefault("seconds", answer["end"] - peer.handled.begun_at)
    print(json.dumps({**answer, "cpu": cpu_seconds() - used[0]}), flush=True)


def _told(error: BaseException) -> str:
    """The first error of a group, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())


def main(make: Callable[[str, dict[str, Any]], Peer]) -> None:
    """Do the one task of this process and end, whatever the contender has left running."""
    logging.disable(logging.CRITICAL)
    task = json.loads(sys.argv[1])
    work = _perform(make, task)
    try:
        if task["setting"].get("loop") == "uvloop":
            importlib.import_module("uvloop").run(work)
        else:
            asyncio.run(work)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the table shows it
        print(json.dumps({"error": _told(error)}), flush=True)
    os._exit(0)
