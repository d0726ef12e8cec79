"""Tells ReplicaSets which pods are cheap to delete: the idle ones. By choice, and only ever a hint.

A busy pod gets a cost, an idle one has none, so a pod that was never busy is never written. A cost that is not ours is
left alone. Each pod is written every 30 s at most, all pods together a few times a second, and none where we may not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from pgqrs_operator.api import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqrs.fleet import FleetWorker
    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.store import Store

_log = logging.getLogger(__name__)

#: What a busy pod costs; an idle one costs nothing, which is what a pod without the annotation does.
BUSY = "100"
_PASS_SECONDS = 1.0
#: Pods that one pass writes.
_BUDGET = 20
#: Between two writes to a pod; and as long after its last message a pod counts as busy, so that one that takes a short
#: message every now and then is not written to and fro.
_POD_SECONDS = 30.0
#: What was seen of a pod's workers longer ago says nothing, such as in an outage of the database.
_FRESH_SECONDS = 20.0
#: How long nothing is written after it was not allowed.
_FORBIDDEN_SECONDS = 600.0
_FORBIDDEN = 403


class _Seen(NamedTuple):
    """The workers of a pod as they were last seen, and when they were last seen with a message (monotonic clock)."""

    at: float
    busy_at: float


class DeletionCosts:
    """Writes the cost of pods."""

    def __init__(self, kubernetes: Kubernetes, store: Store) -> None:
        self._kubernetes = kubernetes
        self._store = store
        self._seen: dict[str, _Seen] = {}
        self._written_at: dict[str, float] = {}
        self._forbidden_until = float("-inf")

    def note(self, rows: Iterable[FleetWorker]) -> None:
        """Take what the workers of a database hold now."""
        now = time.monotonic()
        busy: dict[str, bool] = {}
        for row in rows:
            if row.info.pod_uid:
                busy[row.info.pod_uid] = busy.get(row.info.pod_uid, False) or row.info.leased > 0
        for uid, is_busy in busy.items():
            before = self._seen.get(uid)
            self._seen[uid] = _Seen(now, now if is_busy else before.busy_at if before else float("-inf"))

    async def run(self) -> None:
        """Write every second, for ever."""
        while True:
            try:
                await self.once()
            except Exception:  # noqa: BLE001 - a hint must not end the operator; it is logged
                _log.exception("costs of deletion not written")
            await asyncio.sleep(_PASS_SECONDS)

    async def once(self) -> None:
        """Write what is due, the busy pods first."""
        now = time.monotonic()
        there = {pod.uid: pod for pod in self._store.pods}
        self._seen = {uid: seen for uid, seen in self._seen.items() if uid in there}
        self._written_at = {uid: at for uid, at in self._written_at.items() if uid in there}
        if now < self._forbidden_until:
            return
        due = [(pod, cost) for pod in there.values() for cost in self._due(pod, now)]
        due.sort(key=lambda item: item[1] is None)
        async with asyncio.TaskGroup() as group:
            for pod, cost in due[:_BUDGET]:
                self._written_at[pod.uid] = now
                group.create_task(self._write(pod, cost))

    def _due(self, pod: Pod, now: float) -> list[str | None]:
        """Give the cost that is to be written, if any is; None takes it away."""
        seen = self._seen.get(pod.uid)
        if seen is None or not pod.replicated or pod.ending or pod.ended is not None:
            return []
        cost = BUSY if now - seen.busy_at <= _POD_SECONDS else None
        unknown = now - seen.at > _FRESH_SECONDS
        foreign = pod.deletion_cost not in {None, BUSY}
        early = now - self._written_at.get(pod.uid, float("-inf")) < _POD_SECONDS
        return [] if unknown or foreign or early or cost == pod.deletion_cost else [cost]

    async def _write(self, pod: Pod, cost: str | None) -> None:
        try:
            body = await self._kubernetes.set_deletion_cost(*pod.key, uid=pod.uid, cost=cost)
        except ApiError as error:
            if error.status == _FORBIDDEN and time.monotonic() >= self._forbidden_until:
                self._forbidden_until = time.monotonic() + _FORBIDDEN_SECONDS
                _log.warning("the cost of deleting pods may not be written", extra={"error": str(error)})
            # Otherwise the pod is gone or was changed: what is due is seen again.
            return
        self._store.pods.put({**body, "kind": "Pod"})
