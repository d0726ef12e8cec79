"""`python -m tests.bench_sidecar`, which is `make bench-sidecar`: measure sidecars, write their part of the page.

Exit codes: 0 when all was measured, whatever was reached; 1 when something could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.report import table
from tests.bench_sidecar import fleet, image, pods
from tests.bench_sidecar.results import Results, verdicts
from tests.bench_sidecar.writing import write
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHECKOUT = Path(__file__).resolve().parents[2]
_MODES = ("persistent", "shortLived")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_sidecar", description="What sidecars cost.")
    parser.add_argument("--pods", type=_numbers, default=[1, 10, 100], metavar="COUNT,…", help="of real pods")
    parser.add_argument(
        "--fleets", type=_numbers, default=[10, 100, 1000], metavar="COUNT,…", help="of sidecars without pods"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each is looked at (default: 60)")
    parser.add_argument("--output", type=Path, default=_CHECKOUT / "docs", help="where performance.md is")
    return parser.parse_args()


async def _measure_fleets(results: Results, counts: Sequence[int], seconds: float) -> None:
    with fleet.fleet_server(max(counts)) as server:
        await fleet.install(server)
        for count in counts:
            for mode in _MODES:
                results.fleets.append(await fleet.measure(server, count, mode, seconds))
                print(results.fleets[-1], file=sys.stderr, flush=True)


def main() -> int:
    """Measure, write, print."""
    arguments = _arguments()
    results = Results()
    try:
        if arguments.fleets:
            asyncio.run(_measure_fleets(results, arguments.fleets, arguments.seconds))
        if arguments.pods:
            results.image = image.compressed_megabytes()
            for measured in pods.measure(arguments.pods, arguments.seconds):
                results.pods.append(measured)
                print(measured, file=sys.stderr, flush=True)
    except (ClusterError, TimeoutError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    write(arguments.output, results, arguments.seconds)
    rows = [(verdict.work, verdict.aim, verdict.measured, verdict.answer) for verdict in verdicts(results)]
    print(f"\n{table(('what', 'aim', 'measured', 'reached'), rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
