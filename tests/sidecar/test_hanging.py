"""A sidecar whose event loop hangs ends by itself, without the kubelet and its hooks."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from tests.sidecar.processes import CHECKOUT, Pod, Process

if TYPE_CHECKING:
    from tests.sidecar.conftest import Observer

#: The sidecar with less patience, and with a heartbeat that never comes back.
_HANGS = """
import sys, time
from pgqrs_sidecar import hanging
from pgqrs_sidecar.__main__ import main
from pgqrs_sidecar.heartbeats import Heartbeats

async def hang_here(self):
    time.sleep(60)

hanging.HANG_SECONDS, hanging.TURN_SECONDS = 1.0, 0.1
Heartbeats.run = hang_here
sys.exit(main([]))
"""


async def test_a_sidecar_whose_event_loop_hangs_ends_and_says_where(pod: Pod, database: Observer) -> None:
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _HANGS,
            env=pod.environment,
            cwd=CHECKOUT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    )  # fmt: skip
    try:
        assert await process.ended() == 1
    finally:
        await process.destroy()
    assert "in hang_here" in process.output
    # Its row lives on, for the sidecar that the kubelet starts next.
    assert [row["state"] for row in await database.rows()] == ["ready"]
