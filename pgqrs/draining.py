"""Draining a worker: the way from work to its end that loses and repeats nothing."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

from pgqrs import arguments, errors, lifecycle

if TYPE_CHECKING:
    from pgqrs.database import Database

DEFAULT_DRAIN = timedelta(seconds=25)
_DRAIN_POLL_SECONDS = 0.05


async def drain(db: Database, worker_id: int, timeout: timedelta, *, reason: str) -> int:
    """Give a worker no more messages, wait until it holds none, then suspend and stop it.

    Args:
        db: where.
        worker_id: whom.
        timeout: how long to wait for what it holds; what is left then is released for others.
        reason: why, as the row says afterwards.

    Returns:
        How many messages had to be released.

    Raises:
        WorkerNotFoundError: there is none of this id.
        ValidationError: the timeout is no duration, or negative.
    """
    seconds = arguments.seconds("timeout", timeout)
    with contextlib.suppress(errors.InvalidStateTransitionError):
        await lifecycle.interrupt(db, worker_id)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while await lifecycle.leased(db, worker_id):  # noqa: ASYNC110 - the database sets no event
                await asyncio.sleep(_DRAIN_POLL_SECONDS)
    with contextlib.suppress(errors.InvalidStateTransitionError):
        await lifecycle.suspend(db, worker_id)
    return (await lifecycle.stop(db, [worker_id], reason=reason)).popitem()[1]
