"""What tests of database trouble have in common: a process that goes on meanwhile, and what is waited for."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.sidecar.processes import Pod, RawSession, eventually
from tests.support.postgres import PASSWORD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.sidecar.conftest import Observer
    from tests.sidecar.processes import Process

#: What the sidecar may take for its end when the database does not answer: the processes' last drain and the tries to
#: stop the rows, and as much again where the machine is busy.
_END_SECONDS = 15.0
#: A dead line is noticed, left, and another one is open by then.
HEALS_SECONDS = 25.0


@asynccontextmanager
async def attended(session: RawSession) -> AsyncIterator[list[dict[str, Any]]]:
    """Answer pings, and keep what else the sidecar says."""
    heard: list[dict[str, Any]] = []

    async def listen() -> None:
        while (message := await session.next(within=600)) is not None:
            heard.append(message)

    listening = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listening.cancel()
        await asyncio.wait([listening])


async def failing(pod: Pod, seconds: float = 0.0) -> None:
    """Wait until the sidecar has known for so long that the database does not answer."""

    async def look() -> bool:
        since = (await pod.state())["database_failing_seconds"]
        return since is not None and since >= seconds

    await eventually(look, within=HEALS_SECONDS)


async def beaten(database: Observer, worker_id: int) -> None:
    before = (await database.row(worker_id))["heartbeat_at"]

    async def look() -> bool:
        return bool((await database.row(worker_id))["heartbeat_at"] > before)

    await eventually(look, within=HEALS_SECONDS)


async def stopped(database: Observer, worker_id: int) -> None:
    async def look() -> bool:
        return await database.state(worker_id) == "stopped"

    await eventually(look, within=HEALS_SECONDS)


async def probes(pod: Pod) -> list[int]:
    return [(await pod.get(path))[0] for path in ("/live", "/ready", "/started")]


async def ends(sidecar: Process) -> None:
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended(within=_END_SECONDS) == 0
    assert PASSWORD not in sidecar.output


async def number(pod: Pod, name: str) -> float | None:
    """A number of the sidecar without labels; None where it tells none of this name."""
    lines = (await pod.get("/metrics"))[1].splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"pgqrs_sidecar_{name} ")), None)
