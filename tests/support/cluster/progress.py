"""What a person sees while a cluster is made: one line per step, with the seconds since the start."""

from __future__ import annotations

import sys
import time


class Progress:
    """Prints steps to standard error, so that a command's output stays usable in a pipe."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._started = time.monotonic()
        self._quiet = quiet

    @property
    def seconds(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """Print one step, unless quiet."""
        if not self._quiet:
            print(f"[{self.seconds:6.1f} s] {text}", file=sys.stderr, flush=True)
