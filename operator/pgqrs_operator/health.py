"""Answers probes and Prometheus. Alive means that the cluster was listed and the controller turned not long ago."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from pgqrs_operator.metrics import Metrics

#: An API server that is away for less is no reason to start the operator anew, in seconds.
_MOST_SILENCE = 120.0


class HealthServer:
    """Listens for the kubelet and for Prometheus."""

    def __init__(self, metrics: Metrics, port: int) -> None:
        self._metrics = metrics
        self._port = port
        self._started = time.monotonic()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._told)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, None, self._port).start()

    async def aclose(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        now = time.monotonic()
        for what, at in (("listing", self._metrics.listed_at), ("controller", self._metrics.turned_at)):
            age = now - (self._started if at is None else at)
            if age > _MOST_SILENCE:
                return web.Response(status=503, text=f"{what}: nothing for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._metrics.listed_at is None or self._metrics.turned_at is None:
            return web.Response(status=503, text="the cluster was not listed yet\n")
        return web.Response(text="ok\n")

    async def _told(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})
