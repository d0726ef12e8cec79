"""Adds to what is declared what only the rows and the pods tell: pods that left rows behind, owners elsewhere, ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pgqrs_operator import declarations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqrs.fleet import Fleet, FleetWorker
    from pgqrs_operator.endings import Endings
    from pgqrs_operator.facts import Desired
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Store, Worker


class Surroundings:
    """What one database's rows have to do with this cluster."""

    def __init__(self, store: Store, settings: Settings, endings: Endings) -> None:
        self._store = store
        self._settings = settings
        self._endings = endings
        #: Uids of pods that this cluster is known to have had.
        self._ours: set[str] = set()
        #: Uids of the pods that the rows named when they were last read.
        self._row_pods: set[str] = set()

    def know(self, pods: Iterable[Pod], workers: Iterable[Worker]) -> None:
        """Take the pods that are there and those that have a `PgqrsWorker` as this cluster's."""
        self._ours &= self._row_pods
        self._ours |= {pod.uid for pod in pods}
        self._ours |= {worker.pod_uid for worker in workers if worker.pod_uid}

    async def complete(self, desired: Desired, found: Fleet) -> tuple[Desired, dict[str, str]]:
        """Add what the rows tell: pods that left only rows behind, owners elsewhere; and which pods have ended.

        The rows were read before: what they show belongs to processes that are no younger than what is confirmed here.
        """
        self._row_pods = {row.info.pod_uid for row in found.workers if row.info.pod_uid}
        declared = {(worker.key.namespace, worker.pod_uid) for worker in desired.workers}
        lost: dict[tuple[str | None, str], FleetWorker] = {}
        for row in found.workers:
            pod = row.info.pod_namespace, row.info.pod_uid or ""
            if pod not in declared and self._store.pods.get(pod[1]) is None and self._is_ours(row):
                lost[pod] = row
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
        return complete, await self._endings.confirmed(missing, ended)

    def _is_ours(self, row: FleetWorker) -> bool:
        """Whether a row's pod is one of this cluster. Without a name, another cluster's rows look like ours."""
        if not declarations.names_a_pod(row):
            return False
        watched = self._settings.watch_namespace in {None, row.info.pod_namespace}
        named = self._settings.cluster is not None and row.info.cluster == self._settings.cluster
        return watched and (named or row.info.pod_uid in self._ours)
