"""Stops the rows of processes that ended with their container, in a pod that goes on. Pure.

Whoever has a session with the sidecar is known to be dead at once. An app that knows nothing of us has none: its rows
are taken over by the sidecar (`adopted`), which beats them for as long as the pod lives. When its container was started
anew, only the API server tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgqrs.fleet import FleetWorker
    from pgqrs_operator.drafting import Draft
    from pgqrs_operator.facts import Observed
    from pgqrs_operator.pods import Restart


def is_over(row: FleetWorker, restart: Restart) -> bool:
    """Tell whether the process behind a row ended with one of these containers."""
    if not row.adopted:
        return False
    began = row.info.started_at
    return restart.before is None or (began is not None and began < restart.before)


def plan_restarts(observed: Observed, draft: Draft) -> None:
    """Stop what is over, whatever is declared: the messages of the dead are everybody's."""
    for row in observed.fleet.workers:
        restart = observed.restarts.get(row.info.pod_uid or "")
        if restart is not None and row.info.id not in draft.stopped and is_over(row, restart):
            draft.stop([row], restart.reason, died=True)
