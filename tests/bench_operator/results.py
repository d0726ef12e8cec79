"""What was measured of the operator, and what is to be reached."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.bench.aims import Verdict
from tests.bench.limits import at_most


@dataclass(slots=True)
class Results:
    """All of a run; what was not measured is None."""

    queues: int
    workers: int
    #: Seconds from the first create call until each of the kind is Ready.
    queues_ready: float | None = None
    workers_ready: float | None = None
    #: Megabytes (1,000,000 bytes) of resident memory: the most that was ever, and at rest.
    memory_peak: float | None = None
    memory_idle: float | None = None
    #: Of a core, while nothing changes: of the operator that acts, and of the one that stands by.
    idle: float | None = None
    idle_follower: float | None = None
    #: Seconds from a change of a resource until the row shows it, of each: at rest, and right after the leader's end.
    changes: list[float] = field(default_factory=list)
    change_during_restart: float | None = None
    #: Seconds from the end of the leader's process until the next leader has seen all.
    restart: float | None = None
    #: Objects and rows that were written meanwhile, beside the one that was changed.
    restart_writes: int | None = None
    #: Seconds from the hand-made change of rows until all are as declared.
    drifts: int = 100
    drifts_repaired: float | None = None
    #: Pods that were deleted at once: seconds until the last was gone, and from then until nothing was held by any.
    pods: int = 1000
    pods_gone: float | None = None
    pods_released: float | None = None


def verdicts(results: Results) -> list[Verdict]:
    """Compare a run with every aim."""
    rate = None
    if results.queues_ready is not None and results.workers_ready is not None:
        rate = (results.queues + results.workers) / (results.queues_ready + results.workers_ready)
    return [
        Verdict(
            f"first convergence of {results.queues:,} queues and {results.workers:,} workers",
            "at least 100 objects/s",
            "" if rate is None else f"{rate:,.0f} objects/s",
            None if rate is None else rate >= 100,
        ),
        at_most("restart until converged", "under 45 s", results.restart, 45, "{:.1f} s"),
        at_most("objects and rows that a restart wrote", "none", results.restart_writes, 0, "{:,}"),
        at_most("a changed object in the database", "under 2 s", max(results.changes, default=None), 2, "{:.2f} s"),
        at_most("the same right after the leader's end", "under 2 s", results.change_during_restart, 2, "{:.2f} s"),
        at_most("memory, the most that was used", "under 350 MB", results.memory_peak, 350, "{:,.0f} MB"),
        at_most(
            "CPU while nothing changes",
            "under 5 % of a core",
            None if results.idle is None else results.idle * 100,
            5,
            "{:.1f} %",
        ),
        at_most(f"{results.drifts} hand-made drifts repaired", "under 30 s", results.drifts_repaired, 30, "{:.1f} s"),
        at_most(
            f"all of {results.pods:,} deleted pods released, after the last is gone",
            "at most 5 s",
            results.pods_released,
            5,
            "{:.1f} s",
        ),
    ]
