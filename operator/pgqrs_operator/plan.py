"""Decides what has to be done so that what is declared comes true. Pure: the same facts always give the same plan.

There is one path for what is new, changed, found again after a restart or deleted: whatever differs becomes an action.
Carrying the actions out and planning again ends in a plan without actions. It must never do I/O, read a clock or
remember anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pgqrs_operator.drafting import Draft
from pgqrs_operator.queue_plans import may_touch, plan_queues
from pgqrs_operator.restarts import plan_restarts
from pgqrs_operator.worker_plans import plan_workers

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgqrs_operator.facts import Desired, Observed, Plan

#: How many silent workers one plan stops at most; the next plan takes the next ones.
_SILENT_BATCH = 500


def plan(desired: Desired, observed: Observed) -> Plan:
    """Compare what is declared about a database with what is there."""
    draft = Draft(defects=dict(desired.defects))
    plan_queues(desired, observed, draft)
    plan_workers(desired, observed, draft)
    rows = observed.fleet.queues
    served = frozenset(one.name for one in desired.queues if one.name in rows and may_touch(one, rows[one.name]))
    plan_restarts(observed, draft)
    if observed.silence_counts:
        _stop_silent(served, observed, draft)
    return replace(draft.plan(), served=served)


def _stop_silent(names: Collection[str], observed: Observed, draft: Draft) -> None:
    """Stop whoever is silent for too long, whatever is wrong with the resource: others wait for its messages."""
    silent = [
        row
        for row in observed.fleet.workers
        if row.silent and row.queue_name in names and row.info.id not in draft.stopped
    ]
    draft.stop(silent[:_SILENT_BATCH], "heartbeat timeout", only_if="silent")
