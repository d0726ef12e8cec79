"""What was measured of sidecars, and what is to be reached."""

from __future__ import annotations

from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """One aim."""

    what: str
    aim: str
    measured: str
    reached: bool | None

    @property
    def answer(self) -> str:
        """Yes or no, for the table."""
        return {True: "yes", False: "no", None: "not measured"}[self.reached]


def verdicts(results: Results) -> list[Verdict]:
    """Compare a run with every aim; of pods the smallest number counts, which keeps the machine least busy."""
    pods = min(results.pods, key=lambda one: one.count, default=None)
    found = [
        _limit("memory of a sidecar", "at most 45 MB", pods and pods.rss, 45, "{:.1f} MB"),
        _limit("CPU of a sidecar", "at most 3 millicores", pods and pods.millicores, 3, "{:.2f} millicores"),
        _limit("ready after its start", "under 1.5 s", pods and pods.ready, 1.5, "{:.2f} s"),
        _limit("image, compressed", "under 60 MB", results.image, 60, "{:.1f} MB"),
    ]
    for mode, most in (("persistent", 1.0), ("shortLived", 0.5)):
        fleet = max((one for one in results.fleets if one.mode == mode), key=lambda one: one.count, default=None)
        each = fleet and fleet.connections / fleet.count
        aim = "one" if mode == "persistent" else "none between beats"
        found.append(_limit(f"connections of a pod, {mode}", aim, each, most, "{:.3f}"))
    return found


def _limit(what: str, aim: str, measured: float | None, most: float, text: str) -> Verdict:
    if measured is None:
        return Verdict(what, aim, "", None)
    return Verdict(what, aim, text.format(measured), measured <= most)
