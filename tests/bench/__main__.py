"""`python -m tests.bench`, which is `make bench`: measure, write the results, print the table of aims.

Exit codes: 0 when all was measured, whatever was reached; 1 when something could not be measured; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.bench import aims, report
from tests.bench.contenders import CONTENDERS
from tests.bench.machine import Machine
from tests.bench.measuring import Selection, measure
from tests.bench.results import Results
from tests.bench.scale import SCALES
from tests.bench.server import bench_server
from tests.bench.works import WORKS
from tests.bench.writing import write

_CHECKOUT = Path(__file__).resolve().parents[2]
_INTERRUPTED = 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Ours, bare asyncpg and the peers.")
    parser.add_argument("--scale", choices=sorted(SCALES), default="full", help="how long it takes (default: full)")
    parser.add_argument("--only", default="", metavar="WORK,…", help=f"of {', '.join(work.name for work in WORKS)}")
    parser.add_argument(
        "--contenders", default="", metavar="NAME,…", help=f"of {', '.join(one.name for one in CONTENDERS)}"
    )
    parser.add_argument(
        "--output", type=Path, help="where to write; docs for a whole full run if not given, build/bench for any other"
    )
    return parser.parse_args()


async def _run(selection: Selection, scale_name: str, results: Results) -> Machine:
    scale = SCALES[scale_name]
    # Whoever ends us has us clean up as Ctrl-C does.
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    with bench_server() as server:
        # Before the run loads it itself.
        machine = Machine.read(await server.version())
        await measure(server, scale, selection, results)
    return machine


def main() -> int:
    """Measure, write, print."""
    arguments = _arguments()
    try:
        selection = Selection.parse(arguments.only, arguments.contenders)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    scale = SCALES[arguments.scale]
    for_the_record = scale.name == "full" and selection.everything
    output: Path = arguments.output or _CHECKOUT / ("docs" if for_the_record else "build/bench")
    results = Results()
    try:
        machine = asyncio.run(_run(selection, scale.name, results))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted; the server and everything that was measured are gone", file=sys.stderr)
        return _INTERRUPTED
    verdicts = aims.verdicts(results)
    write(output, results=results, verdicts=verdicts, machine=machine, scale=scale)
    print(f"\n{report.aims_table(verdicts)}\n\nwritten to {os.path.relpath(output)}/performance.md, .json and .svg")
    return 1 if any(cell.errors for cell in results.cells.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
