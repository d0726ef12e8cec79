"""Tells why and when the processes behind workers ended: for counting releases, never for deciding one.

The moments come from three clocks: the node's, where a pod shows how its containers ended; the operator's own, where
the pod is gone; the database's, where only the heartbeats stopped. What their clocks differ shows up in the delay.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from pgqrs_operator import pods
from pgqrs_operator.facts import StopWorker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgqrs.fleet import Fleet, FleetWorker
    from pgqrs.models import WorkerId
    from pgqrs_operator.facts import Action
    from pgqrs_operator.metrics import ReleaseCause
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.store import Shelf


class Death(NamedTuple):
    """The end of the process behind a worker."""

    cause: ReleaseCause
    #: By the monotonic clock; None where nobody knows, or nobody died.
    at: float | None

    @property
    def delay(self) -> float | None:
        """How long ago that was, in seconds."""
        return None if self.at is None else time.monotonic() - self.at


#: It was stopped because somebody declared it.
NOBODY_DIED = Death("declared", None)


def deaths(
    actions: Iterable[Action], found: Fleet, ended: Mapping[str, str], shelf: Shelf[Pod]
) -> dict[WorkerId, Death]:
    """Give what is known of the end of each worker that is to be stopped.

    Args:
        actions: what is to be done.
        found: the rows that this was decided by.
        ended: uids of pods that have ended, with the reason.
        shelf: the pods that are there.
    """
    rows = {row.info.id: row for row in found.workers}
    return {
        action.worker_id: _death(action, rows[action.worker_id], ended, shelf)
        for action in actions
        if isinstance(action, StopWorker) and action.worker_id in rows
    }


def _death(action: StopWorker, row: FleetWorker, ended: Mapping[str, str], shelf: Shelf[Pod]) -> Death:
    if action.only_if == "silent":
        return Death("heartbeat_timeout", _monotonic(row.info.heartbeat_at))
    uid = row.info.pod_uid or ""
    if uid not in ended:
        return NOBODY_DIED
    if pods.is_gone(ended[uid]):
        return Death("pod_deleted", shelf.vanished(uid))
    pod = shelf.get(uid)
    return Death("pod_ended", shelf.vanished(uid) if pod is None else _monotonic(pod.ended_at))


def _monotonic(moment: datetime | None) -> float | None:
    return None if moment is None else time.monotonic() - (datetime.now(UTC) - moment).total_seconds()
