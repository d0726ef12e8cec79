"""Knows which pods have ended. Whatever a watch said, nothing counts before a read of the API server's own confirms it.

Such a read has no resourceVersion, so it is a quorum read; pods are compared by their uid. What cannot be confirmed is
taken as alive.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgqrs_operator import pods
from pgqrs_operator.api import ApiError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.facts import Key
    from pgqrs_operator.pods import Pod

_log = logging.getLogger(__name__)


class Endings:
    """Confirms the ends of pods; what is final is asked once."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._kubernetes = kubernetes
        self._final: dict[str, str] = {}

    async def confirmed(self, missing: Mapping[str, Key], ended: Mapping[str, Pod]) -> dict[str, str]:
        """Give the reason for every pod whose end is certain, by its uid.

        Args:
            missing: names of pods that the watch does not show, by their uid.
            ended: pods that the watch shows as ended, by their uid.
        """
        self._final = {uid: why for uid, why in self._final.items() if uid in missing or uid in ended}
        found = dict(self._final)
        unknown: dict[str, set[str]] = {}
        for uid, key in missing.items():
            if uid not in found:
                unknown.setdefault(key.namespace, set()).add(uid)
        for namespace, uids in unknown.items():
            try:
                alive = await self._kubernetes.list_pod_uids(namespace)
            except ApiError as error:
                _log.warning("pods cannot be confirmed as gone", extra={"namespace": namespace, "error": str(error)})
                continue
            self._final.update(dict.fromkeys(uids - alive, pods.GONE))
        for uid, pod in ended.items():
            if uid in found:
                continue
            end = await self._end(pod)
            if end is not None:
                found[uid] = end
        return found | self._final

    async def _end(self, pod: Pod) -> str | None:
        try:
            body = await self._kubernetes.get_pod(*pod.key)
        except NotFoundError:
            self._final[pod.uid] = pod.ended or pods.GONE
            return self._final[pod.uid]
        except ApiError as error:
            _log.warning("pod cannot be confirmed as ended", extra={"pod": str(pod.key), "error": str(error)})
            return None
        now = pods.read(body)
        if now.uid != pod.uid:
            self._final[pod.uid] = pod.ended or pods.GONE
            return self._final[pod.uid]
        if now.final and now.ended is not None:
            self._final[pod.uid] = now.ended
        return now.ended
