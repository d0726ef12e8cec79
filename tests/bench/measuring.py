"""The order of a run: rounds, in each of them every work, in each of them every contender."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from tests.bench.children import ChildError
from tests.bench.contenders import CONTENDERS
from tests.bench.environments import EnvironmentMissingError
from tests.bench.stage import Stage
from tests.bench.works import WORKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.contenders import Contender, Setting
    from tests.bench.results import Results, Sample
    from tests.bench.scale import Scale
    from tests.bench.server import BenchServer
    from tests.bench.works import Work

_CHECKOUT = Path(__file__).resolve().parents[2]
#: An error is told in a cell of a table.
_ERROR_LENGTH = 160
#: By how many places the order of contenders moves from round to round.
_STEP = 2


@dataclass(frozen=True, slots=True)
class Selection:
    """Which works and contenders take part."""

    works: tuple[Work, ...]
    contenders: tuple[Contender, ...]

    @property
    def everything(self) -> bool:
        """Whether nothing was left out."""
        return self.works == WORKS and self.contenders == CONTENDERS

    @classmethod
    def parse(cls, works: str, contenders: str) -> Selection:
        """Read lists of names; a name stands for all that begin with it and a hyphen, no name for everything.

        Raises:
            ValueError: there is nothing of a name; the message says what there is.
        """
        chosen_works = _chosen(works, [work.name for work in WORKS])
        chosen_contenders = _chosen(contenders, [contender.name for contender in CONTENDERS])
        return cls(
            tuple(work for work in WORKS if work.name in chosen_works),
            tuple(contender for contender in CONTENDERS if contender.name in chosen_contenders),
        )


def _chosen(text: str, names: Sequence[str]) -> set[str]:
    if not text:
        return set(names)
    chosen: set[str] = set()
    for wanted in text.split(","):
        found = {name for name in names if name == wanted or name.startswith(f"{wanted}-")}
        if not found:
            message = f"There is no {wanted!r}; there are {', '.join(names)}."
            raise ValueError(message)
        chosen |= found
    return chosen


async def measure(server: BenchServer, scale: Scale, selection: Selection, results: Results) -> None:
    """Measure what is selected; a contender that fails is noted as failed and does not stop the others."""
    stage = Stage(server, scale)
    for number in range(scale.rounds):
        for work in selection.works:
            if work.once and number:
                continue
            for contender, setting in _turns(work, selection, number):
                outcome = await _sample(stage, work, contender, setting)
                results.add(work.name, contender.name, setting.name, outcome)
                _tell(number, work, contender, setting, outcome)


def _turns(work: Work, selection: Selection, number: int) -> Iterator[tuple[Contender, Setting]]:
    """Who is measured in one round: everybody once before anybody the second time.

    Each round begins with somebody else: who comes first meets what the work before left to the server.
    """
    first = number * _STEP % len(selection.contenders)
    order = [*selection.contenders[first:], *selection.contenders[:first]]
    for _ in range(work.samples):
        for contender in order:
            for setting in work.chosen(contender):
                yield contender, setting


async def _sample(stage: Stage, work: Work, contender: Contender, setting: Setting) -> Sample | str:
    try:
        await stage.prepare(contender)
        return await work.measure(stage, contender, setting)
    except (ChildError, EnvironmentMissingError) as error:
        return _told(str(error))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        return _told(f"{type(error).__name__}: {error}")


def _told(text: str) -> str:
    """One line without the places of this machine."""
    for place, name in ((str(_CHECKOUT), "."), (str(Path.home()), "~")):
        text = text.replace(place, name)
    return " ".join(text.split())[:_ERROR_LENGTH]


def _tell(number: int, work: Work, contender: Contender, setting: Setting, outcome: Sample | str) -> None:
    # How far it is; what came of it is printed at the end.
    who = f"{time.strftime('%H:%M:%S')} round {number + 1} {work.name:18} {contender.name:15} {setting.name:8}"
    if isinstance(outcome, str):
        print(f"{who} failed: {outcome}", file=sys.stderr, flush=True)
    else:
        values = "  ".join(f"{name} {value:,.2f}" for name, value in outcome.values.items())
        print(f"{who} {values}", file=sys.stderr, flush=True)
