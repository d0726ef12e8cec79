"""The process of the operator: `pgqrs-operator run`.

It lists and watches at once, and controls and writes only when it is the leader. A leader that loses the Lease ends the
process, which is the one way to be sure that nothing of it goes on; the kubelet starts it anew, as a follower.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

import kopf
from kopf._core.engines.peering import Identity

from pgqrs_operator import handlers
from pgqrs_operator.canary import Canary
from pgqrs_operator.certificates import CertificateKeeper
from pgqrs_operator.connection import connect
from pgqrs_operator.controller import Controller
from pgqrs_operator.fencing import FencedKubernetes
from pgqrs_operator.health import HealthServer
from pgqrs_operator.leadership import Leadership
from pgqrs_operator.leases import LeaseClient
from pgqrs_operator.listings import Listings
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.store import Store

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgqrs_operator.settings import Settings

_log = logging.getLogger(__name__)

#: How long what writes may take to end, and then what only watches, in seconds; less than the pod's grace period.
_END_SECONDS = 15.0
_CLOSE_SECONDS = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def operate(settings: Settings) -> int:
    """Stand by, and look after the cluster as the leader, until SIGTERM or SIGINT; give the exit status.

    Raises:
        OSError: the port of the probes is taken.
    """
    metrics, stop = Metrics(most_queues=settings.metrics_queues), asyncio.Event()
    async with await connect() as client:
        lease = LeaseClient(client, settings.namespace, f"{settings.release}-operator")
        leadership, canary = Leadership(lease, settings.identity), Canary(lease)
        metrics.show_watch(lambda: canary.seen_at)
        health = HealthServer(metrics, leadership, canary, settings.health_port)
        await health.start()
        store, kubernetes = Store(), FencedKubernetes(client, lambda: leadership.leads)
        listings = Listings(kubernetes, store, settings, metrics)
        # Who stands by knows all that the leader knows, and can act at once when that one ends.
        looking = [
            asyncio.create_task(canary.run(), name="canary"),
            asyncio.create_task(_watch(store, settings, stop, listings.complete), name="watches"),
            asyncio.create_task(listings.run(), name="listings"),
        ]
        try:
            _heed_signals(stop)
            if not await _elected(leadership, stop, looking):
                return _judged(looking)
            metrics.leads(leading=True)
            controller = Controller(kubernetes, store, settings, metrics, may_write=lambda: leadership.leads)
            writing = [asyncio.create_task(_control(controller, listings), name="controller")]
            if settings.manage_webhook:
                keeper = CertificateKeeper(client, namespace=settings.namespace, release=settings.release)
                writing.append(asyncio.create_task(keeper.run(), name="certificate"))
            return await _lead(leadership, stop, writing=writing, looking=looking)
        finally:
            await _end(looking, _CLOSE_SECONDS)
            await health.aclose()


def _heed_signals(stop: asyncio.Event) -> None:
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _elected(leadership: Leadership, stop: asyncio.Event, looking: Collection[asyncio.Task[None]]) -> bool:
    """Wait to become the leader; tell whether that came before the end, or before one of those that look ended."""
    electing = asyncio.create_task(leadership.acquire(), name="election")
    stopping = asyncio.create_task(stop.wait(), name="signals")
    try:
        await asyncio.wait({electing, stopping, *looking}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end([electing, stopping], _CLOSE_SECONDS)
    if stop.is_set() or any(task.done() for task in looking):
        # It may have been taken at this very moment.
        await leadership.release()
        return False
    electing.result()
    return True


async def _lead(
    leadership: Leadership,
    stop: asyncio.Event,
    *,
    writing: Collection[asyncio.Task[None]],
    looking: Collection[asyncio.Task[None]],
) -> int:
    """Do the operator's work until `stop`, or until a part of it ends by itself; give the exit status."""
    keeping = asyncio.create_task(leadership.keep(), name="leadership")
    stopping = asyncio.create_task(stop.wait(), name="signals")
    for_ever = [*writing, keeping, *looking]
    try:
        await asyncio.wait([*for_ever, stopping], return_when=asyncio.FIRST_COMPLETED)
        return _judged(for_ever)
    finally:
        # Whoever writes ends first, and the Lease is kept until then. It is given back only if nothing goes on.
        idle = await _end(writing, _END_SECONDS)
        await _end([keeping, stopping], _CLOSE_SECONDS)
        if idle:
            await leadership.release()


async def _control(controller: Controller, listings: Listings) -> None:
    """Control once everything was listed: before that, a pod that was not seen yet would look gone."""
    await listings.complete.wait()
    await controller.run()


async def _watch(store: Store, settings: Settings, stop: asyncio.Event, listed: asyncio.Event) -> None:
    """Run kopf for ever, but heed the signals ourselves."""
    # It begins with lists of its own; two of everything at a time would be the most memory that is ever needed.
    await listed.wait()
    ready = asyncio.Event()
    watching = asyncio.create_task(
        kopf.operator(
            registry=handlers.registry(store),
            settings=handlers.settings(),
            clusterwide=settings.watch_namespace is None,
            namespaces=[settings.watch_namespace] if settings.watch_namespace else [],
            standalone=True,
            # kopf's default asks for the name of the account, which a container's has not.
            identity=Identity("pgqrs-operator"),
            ready_flag=ready,
        ),
        name="kopf",
    )
    begun = asyncio.create_task(ready.wait(), name="kopf has begun")
    try:
        await asyncio.wait({watching, begun}, return_when=asyncio.FIRST_COMPLETED)
        # kopf took them over. At a signal it would first wait for every task of the process, and then cancel them.
        _heed_signals(stop)
        await watching
    finally:
        await _end([watching, begun], _CLOSE_SECONDS)


def _judged(for_ever: Collection[asyncio.Task[None]]) -> int:
    """Say which of the tasks that must run for ever have ended, and give the exit status."""
    ended = [task for task in for_ever if task.done()]
    for task in ended:
        error = None if task.cancelled() else task.exception()
        _log.critical("a task that must run for ever has ended", exc_info=error, extra={"task": task.get_name()})
    return 1 if ended else 0


async def _end(tasks: Collection[asyncio.Task[Any]], seconds: float) -> bool:
    """Cancel tasks and wait for them; tell whether all have ended."""
    for task in tasks:
        task.cancel()
    _, left = await asyncio.wait(tasks, timeout=seconds)
    return not left
