"""Knows which pods have ended. Whatever a watch said, nothing counts before a read of the API server's own confirms it.

Such a read has no resourceVersion, so it is a quorum read; pods are compared by their uid. What cannot be confirmed is
taken as alive.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pgqrs_operator import pods
from pgqrs_operator.api import ApiError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.pods import Pod, Restart
    from pgqrs_operator.store import Shelf

_log = logging.getLogger(__name__)

#: Reads that are under way at a time.
_PARALLEL = 16


class Endings:
    """Confirms the ends of pods; what is final is asked once."""

    def __init__(self, kubernetes: Kubernetes, shelf: Shelf[Pod]) -> None:
        """Take what is asked, and what remembers how pods looked last."""
        self._kubernetes = kubernetes
        self._shelf = shelf
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._final: dict[str, str] = {}
        #: How often the API server was asked.
        self.reads = 0

    async def confirmed(self, missing: Mapping[str, Collection[str]], ended: Mapping[str, Pod]) -> dict[str, str]:
        """Give the reason for every pod whose end is certain, by its uid.

        Args:
            missing: namespaces of pods that the watch does not show, by their uid; all that anybody says it is in.
            ended: pods that the watch shows as ended, by their uid.
        """
        self._final = {uid: why for uid, why in self._final.items() if uid in missing or uid in ended}
        unknown: dict[str, set[str]] = {}
        for uid, namespaces in missing.items():
            if uid not in self._final:
                for namespace in namespaces:
                    unknown.setdefault(namespace, set()).add(uid)
        asked = [pod for uid, pod in ended.items() if uid not in self._final]
        async with asyncio.TaskGroup() as group:
            lists = [group.create_task(self._there(namespace, uids)) for namespace, uids in unknown.items()]
            reads = [group.create_task(self._now(pod)) for pod in asked]
        # One pod may be said to be in several namespaces; it is gone where it is in none of them.
        gone: set[str] = set().union(*unknown.values())
        gone.difference_update(*(one.result() for one in lists))
        self._final.update({uid: pods.gone(self._shelf.last(uid)) for uid in gone})
        passing: dict[str, str] = {}
        for seen, read in zip(asked, reads, strict=True):
            now = read.result()
            if now is not None and now.ended is not None:
                (self._final if now.final else passing)[seen.uid] = now.ended
        return self._final | passing

    async def restarts(self, suspected: Iterable[Pod]) -> dict[str, Restart]:
        """Give what is over of pods that go on, by their uid.

        Args:
            suspected: pods that the watch shows with app containers that ended.
        """
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(self._now(pod)) for pod in suspected]
        found = [read.result() for read in reads]
        return {pod.uid: pod.restart for pod in found if pod is not None and pod.restart is not None}

    async def _there(self, namespace: str, uids: Collection[str]) -> Collection[str]:
        """Give the pods of a namespace; those that were asked for where it cannot be read."""
        self.reads += 1
        try:
            async with self._slots:
                return await self._kubernetes.list_pod_uids(namespace)
        except ApiError as error:
            _log.warning("pods cannot be confirmed as gone", extra={"namespace": namespace, "error": str(error)})
            return uids

    async def _now(self, pod: Pod) -> Pod | None:
        """Read a pod as it is now; None where it cannot be read. One that is gone has ended."""
        self.reads += 1
        try:
            async with self._slots:
                now = pods.read(await self._kubernetes.get_pod(*pod.key))
        except NotFoundError:
            return pods.as_gone(pod)
        except ApiError as error:
            _log.warning("pod cannot be confirmed as ended", extra={"pod": str(pod.key), "error": str(error)})
            return None
        return now if now.uid == pod.uid else pods.as_gone(pod)
