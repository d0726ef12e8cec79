"""What a round over one database found. Where the next one finds the same, all that follows is the same. Pure.

A round over ten thousand resources costs most of a second, and mostly it meets what the one before met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqrs_operator.pace import ENDLESS

if TYPE_CHECKING:
    from pgqrs.fleet import Fleet
    from pgqrs_operator.assignment import Assignment
    from pgqrs_operator.facts import Desired, Plan
    from pgqrs_operator.store import Queue, Worker
    from pgqrs_operator.verdicts import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The facts of one round, and what followed from them."""

    assignment: Assignment
    #: Those of the assigned resources that are looked after.
    queues: tuple[Queue, ...]
    workers: tuple[Worker, ...]
    desired: Desired
    found: Fleet
    planned: Plan
    #: Nothing else was asked, and nothing was put off.
    steady: bool

    def lasts(self) -> bool:
        """Tell whether it is the same for as long as resources, pods and rows are: time alone changes nothing."""
        told = [*self.planned.queues.values(), *self.planned.workers.values()]
        return self.steady and not self.planned.actions and not self.planned.defects and not any(map(_may_pass, told))


def _may_pass(verdict: Verdict) -> bool:
    # A conflict also depends on what is declared in other databases.
    return verdict.reason == "Conflict" or (verdict.kind == "waiting" and verdict.reason != ENDLESS)
