"""What a plan is written into. Pure; whatever one object brings about is kept from the others."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgqrs_operator import verdicts
from pgqrs_operator.facts import Plan, StopWorker

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pgqrs.fleet import FleetWorker
    from pgqrs_operator.facts import Action, Concerned, Key, WorkerReport
    from pgqrs_operator.verdicts import Verdict

FROZEN = verdicts.stalled(
    "PausedReconciliation",
    "The annotation pgqrs.io/paused-reconciliation is set: nothing is changed on its behalf until it is removed, a "
    "deletion waits too. Workers that are dead or silent for too long are stopped all the same.",
)
DEFECT = verdicts.stalled("InternalError", "The operator met a defect of its own, which its log shows; it tries again.")


@dataclass(slots=True)
class Draft:
    """A plan that is being made."""

    actions: list[Action] = field(default_factory=list)
    queues: dict[Key, Verdict] = field(default_factory=dict)
    workers: dict[Key, Verdict] = field(default_factory=dict)
    reports: dict[Key, WorkerReport] = field(default_factory=dict)
    done_queues: set[Key] = field(default_factory=set)
    done_workers: set[Key] = field(default_factory=set)
    defects: dict[Concerned, Exception] = field(default_factory=dict)
    #: Ids of workers that are stopped by this plan.
    stopped: set[int] = field(default_factory=set)

    def stop(self, rows: Iterable[FleetWorker], reason: str, only_if: str = "", *, died: bool = False) -> None:
        """Stop workers; see `StopWorker`."""
        for row in rows:
            self.stopped.add(row.info.id)
            self.actions.append(StopWorker(row.info.id, reason, only_if, died))

    @contextmanager
    def guarded(self, concerned: Collection[Concerned]) -> Iterator[None]:
        """Take back what is drafted within, should it raise, and say so of these resources alone."""
        before = len(self.actions)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it is given to the log and told in the conditions
            del self.actions[before:]
            self.stopped = {action.worker_id for action in self.actions if isinstance(action, StopWorker)}
            self.done_queues -= {one.key for one in concerned if one.kind == "queue"}
            self.done_workers -= {one.key for one in concerned if one.kind == "worker"}
            self.defects |= dict.fromkeys(concerned, error)

    def plan(self) -> Plan:
        """Give what was drafted."""
        return Plan(
            actions=tuple(self.actions),
            queues={**self.queues, **{one.key: DEFECT for one in self.defects if one.kind == "queue"}},
            workers={**self.workers, **{one.key: DEFECT for one in self.defects if one.kind == "worker"}},
            reports=self.reports,
            done_queues=frozenset(self.done_queues),
            done_workers=frozenset(self.done_workers),
            defects=self.defects,
        )
