"""What is to be reached, and what one run says about it.

Ours is compared with bare asyncpg on the same event loop, and with the peers best against best: the better of our two
settings, against the best that any peer reached with any setting.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tests.bench.contenders import BARE_OURS, BARE_UNTOUCHED, OURS, PEERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.results import Results

#: pgmq's SQL against bare asyncpg on the untouched tables. It is on no package index, so these come from our research,
#: on another day and machine.
PGMQ_RATIOS = {"enqueue-batch-100": 1.48, "enqueue-batch-1000": 1.87, "run-dropped": 1.23}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the table of aims."""

    work: str
    aim: str
    measured: str
    #: None where it was not measured.
    reached: bool | None

    @property
    def answer(self) -> str:
        """Yes or no, for the table."""
        return {True: "yes", False: "no", None: "not measured"}[self.reached]

    def as_json(self) -> dict[str, Any]:
        """Give it for the file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Part:
    """One comparison of an aim; an aim is reached when all of its parts are."""

    text: str
    reached: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """Compare a run with every aim."""
    return [_verdict(work, aim, [part(results) for part in parts]) for work, aim, parts in _AIMS]


def _verdict(work: str, aim: str, parts: list[_Part]) -> Verdict:
    known = [part.reached for part in parts]
    reached = False if False in known else None if None in known else True
    return Verdict(work, aim, "; ".join(part.text for part in parts), reached)


def _missing(what: str) -> _Part:
    return _Part(f"{what}: not measured", None)


def _against_bare(work: str, bare: str, least: float, *, bare_work: str | None = None) -> Callable[[Results], _Part]:
    """Our rate divided by that of bare asyncpg, on asyncio; uvloop's is told too."""

    def compare(results: Results) -> _Part:
        ratios: dict[str, float] = {}
        for setting in ("default", "best"):
            ours = results.median(work, OURS.name, setting)
            theirs = results.median(bare_work or work, bare, setting)
            if ours and theirs:
                ratios[setting] = ours / theirs
        if "default" not in ratios:
            return _missing(bare)
        also = f" ({ratios['best']:.2f} on uvloop)" if "best" in ratios else ""
        return _Part(f"{ratios['default']:.2f} of {bare}{also}", ratios["default"] >= least)

    return compare


def _against_peers(work: str, least: float) -> Callable[[Results], _Part]:
    def compare(results: Results) -> _Part:
        ours, theirs = results.all_of(work, [OURS.name]), results.all_of(work, PEERS)
        if not ours or not theirs:
            return _missing("peers")
        ratio = max(ours) / max(theirs)
        default = results.median(work, OURS.name, "default")
        also = f" (on asyncio {default / max(theirs):.2f})" if default else ""
        return _Part(f"{ratio:.2f} times the best peer{also}", ratio > least if least == 1 else ratio >= least)

    return compare


def _quicker_than_peers(value: str) -> Callable[[Results], _Part]:
    def compare(results: Results) -> _Part:
        ours = results.all_of("latency", [OURS.name], value)
        theirs = results.all_of("latency", PEERS, value)
        if not ours or not theirs:
            return _missing(value)
        # The worse of ours: an app may run on either loop.
        return _Part(f"{value} {max(ours):.1f} ms, best peer {min(theirs):.1f} ms", max(ours) < min(theirs))

    return compare


def _value(work: str, name: str, text: str, reached: Callable[[float], bool]) -> Callable[[Results], _Part]:
    def compare(results: Results) -> _Part:
        found = results.all_of(work, [OURS.name], name)
        if not found:
            return _missing(name)
        worst = max(found, key=lambda value: not reached(value))
        return _Part(text.format(worst), reached(worst))

    return compare


_DROPPED = (
    "at least 1.25 times bare asyncpg's fetch and archive in two statements, batches of 100, untouched tables "
    "(pgmq's read and delete: 1.23)"
)
_AIMS: list[tuple[str, str, list[Callable[[Results], _Part]]]] = [
    (
        "enqueue, one task, one by one",
        "at least 0.95 of bare asyncpg, and ahead of every peer",
        [_against_bare("enqueue-1", BARE_OURS.name, 0.95), _against_peers("enqueue-1", 1)],
    ),
    ("enqueue, 64 tasks one by one", "at least 5 times the best peer", [_against_peers("enqueue-64", 5)]),
    (
        "enqueue in batches of 100",
        "ahead of every peer; at least 1.5 times bare asyncpg on the untouched tables (pgmq's SQL: 1.48)",
        [_against_peers("enqueue-batch-100", 1), _against_bare("enqueue-batch-100", BARE_UNTOUCHED.name, 1.5)],
    ),
    (
        "enqueue in batches of 1,000",
        "ahead of every peer; at least 1.9 times bare asyncpg on the untouched tables (pgmq's SQL: 1.87)",
        [_against_peers("enqueue-batch-1000", 1), _against_bare("enqueue-batch-1000", BARE_UNTOUCHED.name, 1.9)],
    ),
    (
        "run, no-op async handler, one process, archiving",
        "at least 2 times the best Python peer at its best, and 0.7 of bare asyncpg's loop",
        [_against_peers("run", 2), _against_bare("run", BARE_OURS.name, 0.7)],
    ),
    (
        "the same, completed messages dropped instead of archived",
        _DROPPED,
        [_against_bare("run-dropped", BARE_UNTOUCHED.name, 1.25)],
    ),
    ("run, four processes", "at least 2 times the best Python peer at its best", [_against_peers("run-4", 2)]),
    (
        "pick-up by an idle worker",
        "p50 and p99 below every peer's",
        [_quicker_than_peers("p50"), _quicker_than_peers("p99")],
    ),
    (
        "backlog of 1,000,000 against 1,000",
        "at least 0.9 of the rate",
        [_value("backlog", "ratio", "{:.2f} of the rate", lambda value: value >= 0.9)],
    ),
    (
        "a snapshot held open in another session for 3 minutes, 300 messages/s offered",
        "all of them handled, p99 at most 3 times the normal one",
        [
            _value("snapshot", "handled", "{:.1%} handled", lambda value: value >= 1),
            _value("snapshot", "ratio", "p99 {:.2f} times the normal one", lambda value: value <= 3),
        ],
    ),
    (
        "100,000 heartbeats",
        "one beat in at most 0.6 s, 99 % HOT",
        [
            _value("heartbeat", "beat", "{:.2f} s", lambda value: value <= 0.6),
            _value("heartbeat", "hot", "{:.1%} HOT", lambda value: value >= 0.99),
        ],
    ),
]
