"""`python -m tests.bench_operator`, which is `make bench-operator`: measure the operator, write its part of the page.

Exit codes: 0 when it was measured, whatever was reached; 1 when the cluster did not come up.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tests.bench.report import table
from tests.bench_operator.kwok import simulated_nodes
from tests.bench_operator.measuring import Measurements
from tests.bench_operator.results import Results, verdicts
from tests.bench_operator.scene import scene
from tests.bench_operator.writing import write
from tests.support.cluster.errors import ClusterError

_CHECKOUT = Path(__file__).resolve().parents[2]
_LOGS = _CHECKOUT / "build" / "bench-operator"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_operator", description="What the operator costs.")
    parser.add_argument("--queues", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--pods", type=int, default=1_000, help="that are deleted at once")
    parser.add_argument(
        "--idle-seconds", type=float, default=60.0, help="how long it is looked at at rest (default: 60)"
    )
    parser.add_argument("--output", type=Path, default=_CHECKOUT / "docs", help="where performance.md is")
    return parser.parse_args()


async def _measure(results: Results, idle_seconds: float) -> None:
    _LOGS.mkdir(parents=True, exist_ok=True)
    async with scene(_LOGS / "cluster.txt") as stage:
        measurements = Measurements(stage, results)
        with simulated_nodes(stage.installation.cluster, results.pods, _LOGS / "kwok.txt"):
            await measurements.all(idle_seconds)
            await measurements.pods()


def main() -> int:
    """Measure, write, print."""
    arguments = _arguments()
    results = Results(queues=arguments.queues, workers=arguments.workers, pods=arguments.pods)
    try:
        asyncio.run(_measure(results, arguments.idle_seconds))
    except ClusterError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    write(arguments.output, results)
    rows = [(verdict.work, verdict.aim, verdict.measured, verdict.answer) for verdict in verdicts(results)]
    print(f"\n{table(('what', 'aim', 'measured', 'reached'), rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
