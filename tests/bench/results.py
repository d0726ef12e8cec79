"""What was measured: samples, their medians and spreads, and the JSON they are kept in."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement."""

    #: By name: `rate` in messages/s, times in ms (`p50`, `p99`) or s (`beat`), shares.
    values: Mapping[str, float]
    count: float = 0.0
    seconds: float = 0.0
    processes: int = 1
    #: CPU seconds of all its client processes, and of the whole server, in this time.
    client_cpu: float = 0.0
    server_cpu: float = 0.0
    #: How many sessions were on a CPU or waited for what, on average over this time.
    sessions: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Cell:
    """All samples of one work by one contender with one setting, and what went wrong."""

    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """Give the value of this name of every sample that has it."""
        return [sample.values[name] for sample in self.samples if name in sample.values]

    def median(self, name: str) -> float | None:
        """Give the median of a value; None where there is none."""
        values = self.values(name)
        return statistics.median(values) if values else None

    def spread(self, name: str) -> float | None:
        """Give the distance from the smallest to the largest, as a share of the median."""
        values, median = self.values(name), self.median(name)
        return (max(values) - min(values)) / median if len(values) > 1 and median else None

    def limit(self, cores: int) -> str:
        """Say what was busy, of the median of the samples."""
        return statistics.mode(limit(sample, cores) for sample in self.samples) if self.samples else ""


#: From which share of its time on something counts as busy.
_BUSY = 0.85
#: From how many sessions on a wait is worth telling.
_WAITING = 0.3


def limit(sample: Sample, cores: int) -> str:
    """Say what limits a measurement: whose CPU was used up, or that all waited for each other or for the disk."""
    if not sample.seconds:
        return ""
    client = sample.client_cpu / sample.seconds / sample.processes
    both = (sample.client_cpu + sample.server_cpu) / sample.seconds
    if both >= _BUSY * cores:
        return "all cores"
    if client >= _BUSY:
        return "client CPU"
    if sample.server_cpu / sample.seconds >= _BUSY:
        return "server CPU"
    waits = {event: sessions for event, sessions in sample.sessions.items() if event != "CPU"}
    worst = max(waits, key=lambda event: waits[event], default=None)
    return f"waits ({worst})" if worst is not None and waits[worst] >= _WAITING else "waits"


Key = tuple[str, str, str]


class Results:
    """Cells by work, contender and setting."""

    def __init__(self) -> None:
        self.cells: dict[Key, Cell] = {}

    def add(self, work: str, contender: str, setting: str, outcome: Sample | str) -> None:
        """Note a sample, or the error that came instead."""
        cell = self.cells.setdefault((work, contender, setting), Cell())
        if isinstance(outcome, Sample):
            cell.samples.append(outcome)
        else:
            cell.errors.append(outcome)

    def of(self, work: str) -> dict[tuple[str, str], Cell]:
        """Give the cells of a work by contender and setting."""
        return {key[1:]: cell for key, cell in self.cells.items() if key[0] == work}

    def median(self, work: str, contender: str, setting: str, value: str = "rate") -> float | None:
        """Give a median; None where it was not measured."""
        cell = self.cells.get((work, contender, setting))
        return cell.median(value) if cell else None

    def all_of(self, work: str, contenders: Iterable[str], value: str = "rate") -> list[float]:
        """Give the medians of these contenders, whatever their setting."""
        names = set(contenders)
        medians = [cell.median(value) for (name, _), cell in self.of(work).items() if name in names]
        return [median for median in medians if median is not None]

    def as_json(self, cores: int) -> list[dict[str, Any]]:
        """Give everything, in the order in which it was measured first."""
        found = []
        for (work, contender, setting), cell in self.cells.items():
            names = dict.fromkeys(name for sample in cell.samples for name in sample.values)
            found.append(
                {
                    "work": work,
                    "contender": contender,
                    "setting": setting,
                    "medians": {name: cell.median(name) for name in names},
                    "spreads": {name: cell.spread(name) for name in names},
                    "limit": cell.limit(cores),
                    "samples": [asdict(sample) for sample in cell.samples],
                    "errors": cell.errors,
                }
            )
        return found
