"""The part of `docs/performance.md` that tells of the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.page import write_part
from tests.bench.report import table
from tests.bench_operator.results import verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench_operator.results import Results

_PAGE = """\
## What ten thousand resources cost the operator

Written by `make bench-operator`; change it there. The chart's two operators on the test cluster, whose API server,
etcd and PostgreSQL share the machine's cores with them and with the client that makes the objects; one database. A
restart is the end of the leader's process (SIGTERM): the other operator takes over, while the first one starts anew.
Pods are kwok's: objects whose life a program simulates.

{aims}

{numbers}
"""


def write(folder: Path, results: Results) -> None:
    """Put the part into the page, in the place of an earlier one."""
    follower = None if results.idle_follower is None else results.idle_follower * 100
    numbers = [
        (f"{results.queues:,} queues Ready after", results.queues_ready, "{:.1f} s"),
        (f"{results.workers:,} workers Ready after", results.workers_ready, "{:.1f} s"),
        ("memory at rest", results.memory_idle, "{:,.0f} MB"),
        ("CPU of the operator that stands by", follower, "{:.1f} %"),
        (f"{results.pods:,} deleted pods gone after", results.pods_gone, "{:.1f} s"),
    ]
    text = _PAGE.format(
        aims=table(
            ("what", "to reach", "measured", "reached"),
            [(verdict.work, verdict.aim, verdict.measured, verdict.answer) for verdict in verdicts(results)],
        ),
        numbers=table(
            ("beside that", "measured"),
            [(what, "not measured" if value is None else form.format(value)) for what, value, form in numbers],
        ),
    )
    write_part(folder / "performance.md", "bench-operator", text)
