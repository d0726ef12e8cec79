"""The HTTP side of the sidecar: the kubelet's probes, the preStop hooks' drain, numbers, and a look inside.

It listens at the pod's address, because the kubelet calls it there, so everything that does or tells something asks
for the pod's token; probes and numbers need none, because those who ask for them have none. The probes never depend
on the database: an outage must not restart a single pod.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pgqrs_sidecar.handshake import is_token
from pgqrs_sidecar.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqrs_sidecar.drain import Drain
    from pgqrs_sidecar.settings import Settings

#: How long an open request may go on when the sidecar ends, in seconds.
_SHUTDOWN_SECONDS = 0.2
#: How long a connection may be open without a request, in seconds; aiohttp would keep it for an hour.
_IDLE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What the sidecar tells about itself."""

    #: Whether the pod may start.
    started: Callable[[], bool]
    #: What it knows, for people.
    state: Callable[[], dict[str, Any]]
    #: The numbers, as Prometheus reads them.
    metrics: Callable[[], str]


class HttpServer:
    """Answers the kubelet, Prometheus and people."""

    def __init__(self, settings: Settings, drain: Drain, views: Views) -> None:
        self._settings = settings
        self._drain = drain
        self._views = views
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen, and give the port.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application()
        app.router.add_get("/started", self._started)
        app.router.add_get("/ready", self._fine)
        app.router.add_get("/live", self._fine)
        app.router.add_get("/metrics", self._counted)
        app.router.add_get("/drain", self._drained)
        app.router.add_get("/state", self._told)
        # No access log: the token stands in the address.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, keepalive_timeout=_IDLE_SECONDS
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, None, self._settings.ports.http)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def aclose(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _fine(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _started(self, _request: web.Request) -> web.Response:
        if self._views.started():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the pod is not registered in the database yet\n")

    async def _counted(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._views.metrics().encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _drained(self, request: web.Request) -> web.Response:
        self._authorize(request)
        seconds = self._settings.times.drain
        container = request.query.get("container")
        if container is not None:
            return _json(dataclasses.asdict(await self._drain.drain_container(container, seconds)))
        self._drain.begin(seconds)
        return _json(dataclasses.asdict(await self._drain.wait()))

    async def _told(self, request: web.Request) -> web.Response:
        self._authorize(request)
        return _json(self._views.state())

    def _authorize(self, request: web.Request) -> None:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        shown = (request.query.get("token"), credentials if scheme.casefold() == "bearer" else None)
        if not any(is_token(text, self._settings.token) for text in shown):
            raise web.HTTPForbidden(text="the token is not this pod's\n")


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(text=json.dumps(value, indent=2) + "\n", content_type="application/json")
