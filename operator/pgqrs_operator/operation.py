"""The process of the operator: `pgqrs-operator run`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import kopf
from kopf._core.engines.peering import Identity

from pgqrs_operator import handlers
from pgqrs_operator.api import Kubernetes
from pgqrs_operator.certificates import CertificateKeeper
from pgqrs_operator.connection import connect
from pgqrs_operator.controller import Controller
from pgqrs_operator.health import HealthServer
from pgqrs_operator.listings import Listings
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.store import Store

if TYPE_CHECKING:
    from pgqrs_operator.settings import Settings

_log = logging.getLogger(__name__)

_END_SECONDS = 15.0


async def operate(settings: Settings) -> int:
    """Look after the cluster until SIGTERM or SIGINT; give the exit status.

    Raises:
        OSError: the port of the probes is taken.
    """
    store, metrics = Store(), Metrics()
    stop = asyncio.Event()
    async with await connect() as client:
        kubernetes = Kubernetes(client)
        health = HealthServer(metrics, settings.health_port)
        await health.start()
        listings = Listings(kubernetes, store, settings, metrics)
        own = {
            asyncio.create_task(_work(listings, Controller(kubernetes, store, settings, metrics)), name="controller"),
        }
        if settings.manage_webhook:
            keeper = CertificateKeeper(client, namespace=settings.namespace, release=settings.release)
            own.add(asyncio.create_task(keeper.run(), name="certificate"))
        watching = asyncio.create_task(
            kopf.operator(
                registry=handlers.registry(store),
                settings=handlers.settings(),
                clusterwide=settings.watch_namespace is None,
                namespaces=[settings.watch_namespace] if settings.watch_namespace else [],
                standalone=True,
                # kopf's default asks for the name of the account, which a container's has not.
                identity=Identity("pgqrs-operator"),
                stop_flag=stop,
            ),
            name="watches",
        )
        try:
            await asyncio.wait({watching, *own}, return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in own if task.done()]
            for task in ended:
                _log.critical("a task that must run for ever has ended", exc_info=task.exception(),
                              extra={"task": task.get_name()})  # fmt: skip
            if watching.done() and watching.exception() is not None:
                _log.critical("the watches have ended", exc_info=watching.exception())
                return 1
            return 1 if ended else 0
        finally:
            stop.set()
            for task in own:
                task.cancel()
            await asyncio.wait({watching, *own}, timeout=_END_SECONDS)
            await health.aclose()


async def _work(listings: Listings, controller: Controller) -> None:
    """List, and once everything was listed, control: before that, a pod that was not seen yet would look gone."""
    async with asyncio.TaskGroup() as group:
        group.create_task(listings.run(), name="listings")
        await listings.complete.wait()
        group.create_task(controller.run(), name="controller")
