"""Adds to what is declared what only the rows and the pods tell: pods that left rows behind, owners elsewhere, ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pgqrs_operator import declarations
from pgqrs_operator.restarts import is_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgqrs.fleet import Fleet, FleetWorker
    from pgqrs_operator.endings import Endings
    from pgqrs_operator.facts import Desired
    from pgqrs_operator.pods import Pod, Restart
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Store, Worker


#: A pod that was here counts as this cluster's for so long after it was last seen, as itself or in a row, in seconds.
_KNOWN_SECONDS = 60.0


class Ends(NamedTuple):
    """What is known to have ended, by the pod's uid."""

    #: Pods, with the reason.
    pods: Mapping[str, str]
    #: App containers of pods that go on.
    containers: Mapping[str, Restart]
    #: Whether the API server was asked about any, or has to be: it may say something else the next time.
    asked: bool = False

    @property
    def reasons(self) -> dict[str, str]:
        """Give all reasons."""
        return {**{uid: restart.reason for uid, restart in self.containers.items()}, **self.pods}


class Surroundings:
    """What one database's rows have to do with this cluster."""

    def __init__(self, store: Store, settings: Settings, endings: Endings) -> None:
        self._store = store
        self._settings = settings
        self._endings = endings
        #: Uids of pods that this cluster is known to have had, and when they were last seen, by the event loop's clock.
        self._ours: dict[str, float] = {}
        #: Uids of those that are there and that this database's loop is told of whenever they change.
        self._assigned: set[str] = set()

    def know(self, pods: Iterable[Pod], workers: Iterable[Worker]) -> None:
        """Take the pods that are there and those that have a `PgqrsWorker` as this cluster's."""
        now = asyncio.get_running_loop().time()
        self._assigned = {pod.uid for pod in pods}
        self._ours |= dict.fromkeys(self._assigned, now)
        self._ours |= dict.fromkeys((worker.pod_uid for worker in workers if worker.pod_uid), now)

    def _remember(self, found: Fleet) -> None:
        """Go on knowing the pods that rows name, and forget those that nobody names any more."""
        now = asyncio.get_running_loop().time()
        named = {row.info.pod_uid for row in found.workers if row.info.pod_uid}
        self._ours |= dict.fromkeys(self._ours.keys() & named, now)
        self._ours = {uid: at for uid, at in self._ours.items() if now - at < _KNOWN_SECONDS}

    async def complete(self, desired: Desired, found: Fleet) -> tuple[Desired, Ends]:
        """Add what the rows tell: pods that left only rows behind, owners elsewhere; and who has ended.

        The rows were read before: what they show belongs to processes that are no younger than what is confirmed here.
        """
        self._remember(found)
        declared = {(worker.key.namespace, worker.pod_uid) for worker in desired.workers}
        lost: dict[tuple[str | None, str], FleetWorker] = {}
        for row in found.workers:
            whose = row.info.pod_namespace, row.info.pod_uid or ""
            if whose not in declared and self._store.pods.get(whose[1]) is None and self._is_ours(row):
                lost[whose] = row
        existing = {self._settings.owner(*queue.key) for queue in self._store.queues}
        complete = replace(
            desired,
            workers=(*desired.workers, *(declarations.lost_worker(row, self._settings) for row in lost.values())),
            others=declarations.foreign_owners(found, desired.queues, existing, self._settings),
        )
        missing: dict[str, set[str]] = {}
        ended: dict[str, Pod] = {}
        for worker in complete.workers:
            if worker.pod_uid is None:
                continue
            pod = self._store.pods.get(worker.pod_uid)
            if pod is None:
                missing.setdefault(worker.pod_uid, set()).add(worker.key.namespace)
            elif pod.ended is not None:
                ended[pod.uid] = pod
        suspected: dict[str, Pod] = {}
        for row in found.workers:
            pod = self._store.pods.get(row.info.pod_uid or "")
            if pod is not None and pod.ended is None and pod.restart is not None and is_over(row, pod.restart):
                suspected[pod.uid] = pod
        named = {row.info.pod_uid for row in found.workers if row.info.pod_uid}
        named |= {worker.pod_uid for worker in complete.workers if worker.pod_uid is not None}
        reads = self._endings.reads
        over = await self._endings.confirmed(missing, ended)
        restarts = await self._endings.restarts(suspected.values())
        # Of a pod that this loop is not told of nobody says when it changes.
        strangers = named - self._assigned
        asked = self._endings.reads > reads or any(self._store.pods.get(uid) is not None for uid in strangers)
        return complete, Ends(over, restarts, asked=asked)

    def _is_ours(self, row: FleetWorker) -> bool:
        """Whether a row's pod is one of this cluster. Without a name, another cluster's rows look like ours."""
        if not declarations.names_a_pod(row):
            return False
        watched = self._settings.watch_namespace in {None, row.info.pod_namespace}
        named = self._settings.cluster is not None and row.info.cluster == self._settings.cluster
        return watched and (named or row.info.pod_uid in self._ours)
