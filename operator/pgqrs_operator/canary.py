"""Proves that this process is not deaf: what it writes has to come back to it on a watch.

The leader writes its Lease every 2 s anyway, so the Lease is the canary. A watch that breaks or falls silent is opened
anew; the liveness probe fails when that does not help.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from pgqrs_operator.api import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgqrs_operator.leases import LeaseClient

_log = logging.getLogger(__name__)

#: A watch that shows no renewal for this long is opened anew, in seconds.
_SILENCE_SECONDS = 10.0
_RETRY_SECONDS = 1.0


class Canary:
    """Watches the Lease of the leader."""

    def __init__(self, lease: LeaseClient, *, silence: float = _SILENCE_SECONDS) -> None:
        """Take the Lease that this process renews."""
        self._lease = lease
        self._silence = silence
        self._trouble = ""
        #: When a renewal last came back, by the monotonic clock.
        self.seen_at: float | None = None

    async def run(self) -> None:
        """Watch for ever; a failure is logged when it is a new one, and tried again."""
        while True:
            try:
                await self._lease.watch(self._saw, silence=self._silence)
            except ApiError as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    _log.warning("the Lease is not seen on a watch", extra={"error": self._trouble})
            await asyncio.sleep(_RETRY_SECONDS)

    def _saw(self, event: Mapping[str, Any]) -> None:
        # A watch begins with the object as it is, which a read shows as well; what is to be proved is what comes after.
        if event.get("type") == "MODIFIED":
            self.seen_at = time.monotonic()
            self._trouble = ""
