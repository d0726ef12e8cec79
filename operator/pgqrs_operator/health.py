"""Answers probes, Prometheus and autoscalers.

A follower is alive while it looks at the Lease. The leader is alive while it also lists the cluster, goes round, all
its database loops go round, and it sees its own writes come back on a watch: one that is deaf is started anew. A
database that is away is no reason for that: a round that failed is one too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import web

from pgqrs_operator import scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqrs_operator.canary import Canary
    from pgqrs_operator.leadership import Leadership
    from pgqrs_operator.metrics import Metrics

#: The longest that each may be silent, in seconds. A first round may write for every pod of a large cluster.
_LEASE_SECONDS = 60.0
_CANARY_SECONDS = 60.0
_ROUND_SECONDS = 120.0
#: A loop of a database: the tables may take ten minutes to be made, a round five.
_DATABASE_SECONDS = 900.0


class HealthServer:
    """Listens for the kubelet, for Prometheus and for autoscalers."""

    def __init__(self, metrics: Metrics, leadership: Leadership, canary: Canary, port: int) -> None:
        self._metrics = metrics
        self._leadership = leadership
        self._canary = canary
        self._port = port
        self._scaling = scaling.Scaling(metrics.backlogs, leadership, port)
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
        app.router.add_get(scaling.PATH, self._scaling.answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=60.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, None, self._port).start()

    async def aclose(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _silences(self) -> Iterator[tuple[str, float, float]]:
        """Give what must go on, since when it has not, and how long that may be, in seconds."""
        now = time.monotonic()
        yield "lease", now - self._leadership.tried_at, _LEASE_SECONDS
        since = self._leadership.leads_since
        if since is None:
            return
        for what, at, most in (
            ("listing", self._metrics.listed_at, _ROUND_SECONDS),
            ("controller", self._metrics.turned_at, _ROUND_SECONDS),
            ("canary", self._canary.seen_at, _CANARY_SECONDS),
        ):
            yield what, now - (since if at is None else at), most
        oldest = self._metrics.oldest_loop_at
        if oldest is not None:
            yield "databases", now - oldest, _DATABASE_SECONDS

    async def _healthz(self, _request: web.Request) -> web.Response:
        for what, silence, most in self._silences():
            if silence > most:
                return web.Response(status=503, text=f"{what}: nothing for {silence:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if not self._leadership.informed:
            return web.Response(status=503, text="the Lease was not read yet\n")
        if self._metrics.listed_at is None:
            return web.Response(status=503, text="the cluster was not listed yet\n")
        if self._leadership.leads_since is None:
            return web.Response(text="ok, a follower\n")
        if self._metrics.turned_at is None:
            return web.Response(status=503, text="the controller did not go round yet\n")
        return web.Response(text="ok, the leader\n")

    async def _told(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})
