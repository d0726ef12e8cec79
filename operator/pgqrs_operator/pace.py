"""How soon a database is looked at again: soon while something is under way, but not for days. Pure.

A look at ten thousand rows costs a second; it is taken less often, so that who does nothing needs next to no CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgqrs_operator.facts import Key
    from pgqrs_operator.verdicts import Verdict

#: Between two looks at the rows, in seconds: while something is under way, and otherwise.
BUSY_SECONDS = 1.0
IDLE_SECONDS = 5.0
#: A look may take this part of the time while nothing is under way; but what was changed by hand is found within 30 s.
_IDLE_SHARE = 0.03
_MOST_IDLE_SECONDS = 25.0
#: What goes on for longer without a change takes its time, in seconds.
_PATIENCE_SECONDS = 30.0
#: Nobody can say when a process that never registered will.
ENDLESS = "WaitingForWorker"


class Pace:
    """Remembers what is under way, and since when it is just this."""

    def __init__(self) -> None:
        self._waiting: set[tuple[Key, str]] = set()
        self._since = float("-inf")

    def after(self, now: float, took: float, *told: Mapping[Key, Verdict]) -> float:
        """Give the time to the next look, in seconds.

        Args:
            now: the time by any clock that never goes back, in seconds.
            took: how long this look took, in seconds.
            told: what was just said of all resources.
        """
        waiting = {
            (key, verdict.reason)
            for verdicts in told
            for key, verdict in verdicts.items()
            if verdict.kind == "waiting" and verdict.reason != ENDLESS
        }
        if waiting - self._waiting:
            self._since = now
        self._waiting = waiting
        if waiting and now - self._since < _PATIENCE_SECONDS:
            return max(BUSY_SECONDS, min(took, IDLE_SECONDS))
        return max(IDLE_SECONDS, min(took / _IDLE_SHARE, _MOST_IDLE_SECONDS))
