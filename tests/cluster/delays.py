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
    """Seconds from a death to the next delivery of each message that the dead process held, by what caused it."""

    def __init__(self) -> None:
        self._found: dict[str, list[list[float]]] = {}

    def add(self, cause: str, deaths: Iterable[Sequence[float]]) -> None:
        """Take what one test measured: of each death, the seconds until each message was delivered again."""
        found = [list(seconds) for seconds in deaths if seconds]
        if found:
            self._found.setdefault(cause, []).extend(found)

    def table(self) -> list[str]:
        """Give lines for people; none where nothing was measured. Of each death, the longest wait counts."""
        if not self._found:
            return []
        rows = sorted(self._found.items())
        rows.append(("all", [death for found in self._found.values() for death in found]))
        head = f"{'deaths':>6} {'messages':>8} {'p50':>6} {'p99':>6} {'most':>6}"
        lines = [f"{'from death to redelivery, in s':34} {head}"]
        for cause, found in rows:
            longest = [max(death) for death in found]
            numbers = " ".join(f"{value:6.2f}" for value in (_part(longest, 0.5), _part(longest, 0.99), max(longest)))
            lines.append(f"{cause:34} {len(found):6} {sum(map(len, found)):8} {numbers}")
        reached = "yes" if _part([max(death) for death in rows[-1][1]], 0.99) <= PROMISED_P99 else "no"
        return [*lines, f"p99 at most {PROMISED_P99:g} s: {reached}"]

    def write(self, path: Path) -> None:
        """Keep the numbers as JSON, where there are any."""
        if self._found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._found, indent=1, sort_keys=True) + "\n")


def _part(values: Sequence[float], part: float) -> float:
    """Give the smallest value that this part of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
