"""A clock that a test moves."""

from __future__ import annotations


class Clock:
    """The monotonic clock, as far as a test lets it run; it takes the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Give the moment, in seconds."""
        return self.now
