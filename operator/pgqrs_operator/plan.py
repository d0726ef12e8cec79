"""Decides what has to be done so that what is declared comes true. Pure: the same facts always give the same plan.

There is one path for what is new, changed, found again after a restart or deleted: whatever differs becomes an action.
Carrying the actions out and planning again ends in a plan without actions. It must never do I/O, read a clock or
remember anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqrs_operator.drafting import Draft
from pgqrs_operator.queue_plans import plan_queues
from pgqrs_operator.worker_plans import plan_workers

if TYPE_CHECKING:
    from pgqrs_operator.facts import Desired, Observed, Plan

#: How many silent workers one plan stops at most; the next plan takes the next ones.
_SILENT_BATCH = 500


def plan(desired: Desired, observed: Observed) -> Plan:
    """Compare what is declared about a database with what is there."""
    draft = Draft(defects=dict(desired.defects))
    plan_queues(desired, observed, draft)
    plan_workers(desired, observed, draft)
    _stop_silent(desired, observed, draft)
    return draft.plan()


def _stop_silent(desired: Desired, observed: Observed, draft: Draft) -> None:
    """Stop whoever is silent for too long, whatever is wrong with the resource: others wait for its messages."""
    if not observed.silence_counts:
        return
    names = {queue.name for queue in desired.queues}
    silent = [
        row
        for row in observed.fleet.workers
        if row.silent and row.queue_name in names and row.info.id not in draft.stopped
    ]
    draft.stop(silent[:_SILENT_BATCH], "heartbeat timeout", only_if="silent")
