"""Tells whether somebody keeps changing a queue's row that is set right each time. In memory only.

Two clusters without a name on one database look like one owner to each other: each takes what the other declares for
drift, and neither ever sees a conflict.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from pgqrs_operator import verdicts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pgqrs_operator.facts import Key
    from pgqrs_operator.verdicts import Verdict

#: So many repairs of one row within so many seconds are no slip of a hand.
_REPAIRS = 3
_WITHIN_SECONDS = 300.0
#: What counts as one: the row was changed, was gone, or belonged to somebody of whom nobody knows here.
_CAUSES = frozenset({"DriftRepaired", "Recreated", "Adopted"})


class Contests:
    """Remembers the latest repairs of each row."""

    def __init__(self) -> None:
        #: When they were, by the event loop's clock.
        self._repairs: dict[Key, deque[float]] = {}

    @property
    def remembered(self) -> Collection[Key]:
        """The queues whose rows were set right lately."""
        return self._repairs.keys()

    def note(self, written: Iterable[tuple[Key, str]]) -> None:
        """Take rows that were written, and why."""
        now = asyncio.get_running_loop().time()
        # Here, because nobody else says which queues are no more.
        self._repairs = {one: at for one, at in self._repairs.items() if now - at[-1] < _WITHIN_SECONDS}
        for key, cause in written:
            if cause in _CAUSES:
                self._repairs.setdefault(key, deque(maxlen=_REPAIRS)).append(now)

    def holds(self, key: Key) -> bool:
        """Tell whether the row of a queue was set right that often lately."""
        repairs = self._repairs.get(key)
        if repairs is None or len(repairs) < _REPAIRS:
            return False
        return asyncio.get_running_loop().time() - repairs[0] < _WITHIN_SECONDS

    def judged(self, key: Key, verdict: Verdict) -> Verdict:
        """Say so where all is as declared just now; whatever else is wrong comes first."""
        if not (verdict.ready and self.holds(key)):
            return verdict
        return verdicts.ready(
            verdicts.CONTESTED,
            f"{verdict.message} But somebody else changes its row again and again: it was set right {_REPAIRS} times "
            "within five minutes. If another cluster declares this queue in the same database, give each cluster a "
            "name (clusterName of the chart), and one of the two queues another queueName or schema. Else stop what "
            "changes the table pgqrs_queues, or change this resource instead.",
        )
