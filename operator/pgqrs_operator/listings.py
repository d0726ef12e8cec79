"""Lists resources and pods every 10 s beside the watches, because a watch can die without a sign.

Ten thousand resources cost a second to list, so they are listed less often the longer it takes; pods never are.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pgqrs_operator.api import ApiError
from pgqrs_operator.names import QUEUES, WORKERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.metrics import Metrics
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Store

_log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 10.0
_RETRY_SECONDS = 2.0
#: Listing resources may take this part of the time, but they are listed this often at least, in seconds.
_SHARE = 0.01
_MOST_SECONDS = 300.0


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
        await self._patiently(self.once)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_on(self._list_resources, share=_SHARE), name="listing")
            group.create_task(self._keep_on(self._list_pods), name="listing of pods")

    async def once(self) -> None:
        """List everything once.

        Raises:
            ApiError: the API server could not be reached or refused.
        """
        await self._list_resources()
        await self._list_pods()
        self.complete.set()

    async def _list_resources(self) -> None:
        await self._store.queues.replace(self._kubernetes.resource_pages(QUEUES, "PgqrsQueue", self._namespace))
        await self._store.workers.replace(self._kubernetes.resource_pages(WORKERS, "PgqrsWorker", self._namespace))

    async def _list_pods(self) -> None:
        await self._store.pods.replace(self._kubernetes.labelled_pod_pages(self._namespace))
        self._metrics.cluster_listed()

    async def _keep_on(self, listing: Callable[[], Awaitable[None]], *, share: float = 1.0) -> None:
        """List again and again; `share` is the part of the time that it may take."""
        pause = _INTERVAL_SECONDS
        while True:
            await asyncio.sleep(pause)
            took = await self._patiently(listing)
            pause = min(max(took / share, _INTERVAL_SECONDS), _MOST_SECONDS)

    async def _patiently(self, listing: Callable[[], Awaitable[None]]) -> float:
        """List until that succeeds; give how long it took then, in seconds."""
        loop = asyncio.get_running_loop()
        trouble = ""
        while True:
            began = loop.time()
            try:
                await listing()
            except ApiError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    _log.warning("cluster not listed", extra={"error": trouble})
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return loop.time() - began
