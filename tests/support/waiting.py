"""Waits for what a test sees in its own process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_SECONDS = 0.01


async def eventually(condition: Callable[[], object], *, within: float = 30.0) -> None:
    """Wait until it holds.

    Args:
        condition: is looked at often, and does no I/O.
        within: seconds until it is given up.

    Raises:
        TimeoutError: it does not hold by then.
    """
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(_LOOK_SECONDS)
