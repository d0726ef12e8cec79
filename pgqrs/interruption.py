"""What SIGTERM and SIGINT do to a run: the first one drains, the second one ends now."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from pgqrs import errors, lifecycle

if TYPE_CHECKING:
    import signal

    from pgqrs.database import Database
    from pgqrs.models import WorkerId
    from pgqrs.runner import Runner

logger = logging.getLogger(__name__)


class Interruption:
    """Hears the signals of one run."""

    def __init__(
        self, db: Database, worker_id: WorkerId, draining: asyncio.Event, runner: Runner, seconds: float
    ) -> None:
        """Remember whom they are for; a drain waits so many seconds for handlers."""
        self._db = db
        self._worker_id = worker_id
        self._draining = draining
        self._runner = runner
        self._seconds = seconds
        self._told: asyncio.Task[None] | None = None
        self._now = False

    @property
    def drains(self) -> bool:
        """Whether there was one, and no second one."""
        return self._told is not None and not self._now

    def heard(self, number: signal.Signals) -> None:
        """Take a signal."""
        extra = {"worker_id": self._worker_id, "signal": number.name}
        if self._told is not None:
            logger.warning("ending now", extra=extra)
            self._now = True
            self._runner.end()
            return
        logger.info("draining", extra={**extra, "seconds": self._seconds})
        self._draining.set()
        self._runner.drain(self._seconds)
        self._told = asyncio.get_running_loop().create_task(self._tell(), name="pgqrs-tell-drain")

    async def _tell(self) -> None:
        """Let others see that this worker drains."""
        with contextlib.suppress(errors.PgqrsError):
            await lifecycle.interrupt(self._db, self._worker_id)

    async def aclose(self) -> None:
        """Wait until the last word is said."""
        if self._told is not None:
            self._told.cancel()
            await asyncio.wait([self._told])
