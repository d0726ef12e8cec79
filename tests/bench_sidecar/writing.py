"""The part of `docs/performance.md` that tells of sidecars; `make bench` leaves it as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.page import write_part
from tests.bench.report import table
from tests.bench_sidecar.results import verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench_sidecar.results import Results

_PAGE = """\
## What a sidecar costs

Written by `make bench-sidecar`; change it there.

{aims}

### Sidecars of real pods

Each beside an app that does nothing, on the test cluster, at the default interval of 5 s; looked at for
{seconds:.0f} s. From the start of the process to its row in the database is what `ready` says: with many pods that
start at once it tells how many cores the node has. The connections are those of all sidecars.

{pods}

### Many sidecars, as the database sees them

A hundred to a process and without pods, against a server of their own; looked at for {seconds:.0f} s. With
`persistent` each keeps its connection; with `shortLived` (`pgqrs.io/connection-mode`) it opens one for each beat.

{fleets}
"""


def write(folder: Path, results: Results, seconds: float) -> None:
    """Put the part at the end of the page, in the place of an earlier one."""
    part = _PAGE.format(
        seconds=seconds,
        aims=table(
            ("what", "to reach", "measured", "reached"),
            [(verdict.work, verdict.aim, verdict.measured, verdict.answer) for verdict in verdicts(results)],
        ),
        pods=table(
            ("pods", "memory, MB", "largest", "millicores", "largest", "ready, s", "longest", "connections"),
            [
                (
                    f"{one.count:,}",
                    f"{one.rss:.1f}",
                    f"{one.rss_most:.1f}",
                    f"{one.millicores:.2f}",
                    f"{one.millicores_most:.2f}",
                    f"{one.ready:.2f}",
                    f"{one.ready_most:.2f}",
                    f"{one.connections:,}",
                )
                for one in results.pods
            ],
        ),
        fleets=table(
            ("sidecars", "mode", "connections", "commits/s", "server CPU, millicores"),
            [
                (f"{one.count:,}", one.mode, f"{one.connections:,.1f}", f"{one.commits:,.1f}", f"{one.millicores:,.0f}")
                for one in results.fleets
            ],
        ),
    )
    write_part(folder / "performance.md", "bench-sidecar", part)
