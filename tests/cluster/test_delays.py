"""The table of delays says what was measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.cluster.delays import Delays

if TYPE_CHECKING:
    from pathlib import Path


def test_without_a_death_there_is_no_table(tmp_path: Path) -> None:
    delays = Delays()
    delays.add("exit", [])
    delays.add("exit", [[]])
    delays.write(tmp_path / "delays.json")
    assert delays.table() == []
    assert not (tmp_path / "delays.json").exists()


def test_each_cause_has_its_percentiles(tmp_path: Path) -> None:
    delays = Delays()
    # Of two messages of one death the later one counts.
    delays.add("exit", [[number / 1000, number / 100] for number in range(1, 101)])
    delays.add("forced", [[0.5]])
    head, exits, forced, everything, verdict = [line.split() for line in delays.table()]
    assert head[-5:] == ["deaths", "messages", "p50", "p99", "most"]
    assert exits == ["exit", "100", "200", "0.50", "0.99", "1.00"]
    assert forced == ["forced", "1", "1", "0.50", "0.50", "0.50"]
    assert everything[:3] == ["all", "101", "201"]
    assert verdict[-1] == "yes"
    delays.add("forced", [[3.0], [0.1, 3.0]])
    assert delays.table()[-1].endswith("no")
    delays.write(tmp_path / "below" / "delays.json")
    assert json.loads((tmp_path / "below" / "delays.json").read_text())["forced"] == [[0.5], [3.0], [0.1, 3.0]]
