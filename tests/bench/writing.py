"""Writes the files of a run: JSON with every sample, the page, and its plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tests.bench import plot, report
from tests.bench.contenders import CONTENDERS, OURS
from tests.bench.page import write_part
from tests.bench.server import SETTINGS
from tests.bench.works import WORKS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.bench.aims import Verdict
    from tests.bench.machine import Machine
    from tests.bench.results import Results
    from tests.bench.scale import Scale

_PLOTTED = ("run", "run-4", "enqueue-64")
_COMMANDS = {"full": "make bench", "quick": "make bench QUICK=1", "smoke": "python -m tests.bench --scale smoke"}


def write(folder: Path, *, results: Results, verdicts: Sequence[Verdict], machine: Machine, scale: Scale) -> None:
    """Write `performance.json`, `performance.md` and `performance.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": asdict(machine),
        "server": SETTINGS,
        "scale": asdict(scale),
        "aims": [verdict.as_json() for verdict in verdicts],
        "results": results.as_json(machine.cores),
    }
    (folder / "performance.json").write_text(json.dumps(_rounded(found), indent=1) + "\n")
    (folder / "performance.svg").write_text(_plot(results))
    page = report.page(
        results=results,
        verdicts=verdicts,
        works=WORKS,
        machine=machine,
        scale=scale,
        command=_COMMANDS[scale.name],
        plot="performance.svg",
    )
    write_part(folder / "performance.md", "bench", page)


def _rounded(value: object) -> object:
    """Four places are more than what was measured is good for."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


def _plot(results: Results) -> str:
    titles = {work.name: work.title for work in WORKS}
    groups = []
    for name in _PLOTTED:
        bars = [
            plot.Bar(f"{contender.title}, {setting.name}", rate, ours=contender is OURS, bare=contender.bare)
            for contender in CONTENDERS
            for setting in contender.settings
            if (rate := results.median(name, contender.name, setting.name))
        ]
        if bars:
            groups.append((f"{titles[name]}: messages/s", bars))
    return plot.bars(groups)
