"""Ends the sidecar when its event loop hangs, so that the kubelet starts it anew and its sessions come back.

This is no liveness probe's work: before the kubelet restarts a container because of a probe, it calls its preStop hook,
and the sidecar's drains the pod, which goes on.
"""

from __future__ import annotations

import asyncio
import faulthandler

#: An event loop that has not turned for so long hangs, in seconds.
HANG_SECONDS = 30.0
#: How often it shows that it turns, in seconds.
TURN_SECONDS = 5.0


async def watch() -> None:
    """Show for ever that the event loop turns; once it does not, a thread prints where it is and ends the process."""
    try:
        while True:
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            await asyncio.sleep(TURN_SECONDS)
    finally:
        faulthandler.cancel_dump_traceback_later()
