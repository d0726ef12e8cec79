"""What a person sees while the demo runs: a line for each step, and one a second with the queue's numbers."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_INTERVAL_SECONDS = 1.0


class Console:
    """Prints; several threads may."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        with self._lock:
            print(f"[{time.monotonic() - self._started:6.1f} s] {text}", flush=True)

    @contextmanager
    def counting(self, numbers: Callable[[], dict[str, int]]) -> Iterator[None]:
        """Print the numbers once a second, beside whatever else happens."""
        stop = threading.Event()

        def count() -> None:
            while not stop.is_set():
                try:
                    self.say("    " + "   ".join(f"{name} {number:5}" for name, number in numbers().items()))
                except ClusterError as error:
                    self.say(f"    the numbers cannot be read: {error}")
                stop.wait(_INTERVAL_SECONDS)

        thread = threading.Thread(target=count, name="numbers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=30.0)
