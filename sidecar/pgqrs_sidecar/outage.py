"""Knows whether the database answers, and says so in the log once per change instead of once per attempt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING

from pgqrs import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)


class Outage:
    """The state of the database as the last statement saw it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._answered = False

    @property
    def up(self) -> bool | None:
        """Whether the last statement was answered; None before the end of the first one."""
        if self._since is not None:
            return False
        return True if self._answered else None

    @property
    def seconds(self) -> float | None:
        """How long the database has been failing, in seconds; None while it answers."""
        return None if self._since is None else asyncio.get_running_loop().time() - self._since

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Run a statement inside this block; its failure or success is noted and the error goes on."""
        try:
            yield
        except errors.DatabaseError as error:
            if self._since is None:
                self._since = asyncio.get_running_loop().time()
                _log.warning("database trouble begins", extra={"error": str(error)})
            raise
        self._answered = True
        if self._since is not None:
            _log.info("database trouble is over", extra={"seconds": round(self.seconds or 0.0, 1)})
            self._since = None


class Backoff:
    """Growing pauses between attempts, with jitter, so that the pods of a cluster do not come back in step."""

    def __init__(self, *, first: float, most: float) -> None:
        """Take the first and the longest pause, in seconds."""
        self._first = first
        self._most = most
        self._next = first

    def pause(self) -> float:
        """Give the next pause, in seconds: between half and all of a value that doubles up to the longest."""
        whole, self._next = self._next, min(self._next * 2, self._most)
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """Begin with the first pause again."""
        self._next = self._first
