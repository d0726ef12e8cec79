"""How long messages of dead processes waited for other hands: collected from all tests, shown at their end."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

#: What is promised where a death can be known, in seconds. It is shown beside what was measured; no test fails for it.
PROMISED_P99 = 2.0


class Delays:
    """Seconds from a death to the next delivery, by what caused it."""

    def __init__(self) -> None:
        self._found: dict[str, list[float]] = {}

    def add(self, cause: str, seconds: Iterable[float]) -> None:
        """Take what one test measured."""
        found = list(seconds)
        if found:
            self._found.setdefault(cause, []).extend(found)

    def table(self) -> list[str]:
        """Give lines for people; none where nothing was measured."""
        if not self._found:
            return []
        rows = sorted(self._found.items())
        rows.append(("all", [seconds for found in self._found.values() for seconds in found]))
        lines = [f"{'from death to redelivery, in s':34} {'count':>5} {'p50':>6} {'p99':>6} {'most':>6}"]
        for cause, found in rows:
            numbers = " ".join(f"{value:6.2f}" for value in (_part(found, 0.5), _part(found, 0.99), max(found)))
            lines.append(f"{cause:34} {len(found):5} {numbers}")
        reached = "yes" if _part(rows[-1][1], 0.99) <= PROMISED_P99 else "no"
        return [*lines, f"p99 at most {PROMISED_P99:g} s: {reached}"]

    def write(self, path: Path) -> None:
        """Keep the numbers as JSON, where there are any."""
        if self._found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._found, indent=1, sort_keys=True) + "\n")


def _part(values: Sequence[float], part: float) -> float:
    """Give the smallest value that this part of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
