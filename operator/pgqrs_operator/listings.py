"""Lists resources and pods every 10 s beside the watches, because a watch can die without a sign."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pgqrs_operator.api import ApiError
from pgqrs_operator.names import QUEUES, WORKERS

if TYPE_CHECKING:
    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.metrics import Metrics
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Store

_log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 10.0
_RETRY_SECONDS = 2.0


class Listings:
    """Brings the store up to date by whole lists."""

    def __init__(self, kubernetes: Kubernetes, store: Store, settings: Settings, metrics: Metrics) -> None:
        self._kubernetes = kubernetes
        self._store = store
        self._namespace = settings.watch_namespace
        self._metrics = metrics
        #: Set once everything was listed.
        self.complete = asyncio.Event()

    async def run(self) -> None:
        """List for ever."""
        trouble = ""
        while True:
            pause = _INTERVAL_SECONDS
            try:
                await self.once()
                trouble = ""
            except ApiError as error:
                pause = _RETRY_SECONDS
                if str(error) != trouble:
                    trouble = str(error)
                    _log.warning("cluster not listed", extra={"error": trouble})
            await asyncio.sleep(pause)

    async def once(self) -> None:
        """List everything once.

        Raises:
            ApiError: the API server could not be reached or refused.
        """
        queues = await self._kubernetes.list_resources(QUEUES, "PgqrsQueue", self._namespace)
        self._store.queues.replace(queues.items, queues.version)
        workers = await self._kubernetes.list_resources(WORKERS, "PgqrsWorker", self._namespace)
        self._store.workers.replace(workers.items, workers.version)
        pods = await self._kubernetes.list_labelled_pods(self._namespace)
        self._store.pods.replace(pods.items, pods.version)
        self._metrics.cluster_listed()
        self.complete.set()
