"""What was measured of sidecars, and what is to be reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.limits import at_most

if TYPE_CHECKING:
    from tests.bench.aims import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """Sidecars of real pods, under a real kubelet, at rest and at the default heartbeat interval."""

    count: int
    #: Resident memory of the process, in MB (1,000,000 bytes): median and largest.
    rss: float
    rss_most: float
    #: Of a core: median and largest.
    millicores: float
    millicores_most: float
    #: From the start of the process to its row in the database, in seconds: median and largest.
    ready: float
    ready_most: float
    #: Connections of all sidecars to PostgreSQL.
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Many sidecars' work for a database, without pods around them."""

    count: int
    mode: str
    #: Connections at rest: mean of what was seen.
    connections: float
    #: Of the server, for each second.
    commits: float
    millicores: float


@dataclass(slots=True)
class Results:
    """All of a run."""

    pods: list[Pods] = field(default_factory=list)
    fleets: list[Fleet] = field(default_factory=list)
    #: The image as a registry would send it, in MB, compressed by gzip at its default level.
    image: float | None = None


def verdicts(results: Results) -> list[Verdict]:
    """Compare a run with every aim; of pods the smallest number counts, which keeps the machine least busy."""
    pods = min(results.pods, key=lambda one: one.count, default=None)
    found = [
        at_most("memory of a sidecar", "at most 45 MB", pods.rss if pods else None, 45, "{:.1f} MB"),
        at_most("CPU of a sidecar", "at most 3 millicores", pods.millicores if pods else None, 3, "{:.2f} millicores"),
        at_most("ready after its start", "under 1.5 s", pods.ready if pods else None, 1.5, "{:.2f} s"),
        at_most("image, compressed", "under 60 MB", results.image, 60, "{:.1f} MB"),
    ]
    for mode, most in (("persistent", 1.0), ("shortLived", 0.5)):
        fleet = max((one for one in results.fleets if one.mode == mode), key=lambda one: one.count, default=None)
        each = fleet.connections / fleet.count if fleet else None
        aim = "one" if mode == "persistent" else "none between beats"
        found.append(at_most(f"connections of a pod, {mode}", aim, each, most, "{:.3f}"))
    return found
