"""The HTTP side of the sidecar: the kubelet's probes, the preStop hooks' drain, and a look inside.

It listens at the pod's address, because the kubelet calls it there, so everything that does or tells something asks
for the pod's token. The probes never depend on the database: an outage must not restart a single pod.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqrs_sidecar.drain import Drain
    from pgqrs_sidecar.rows import PodRows
    from pgqrs_sidecar.settings import Settings

#: How long an open request may go on when the sidecar ends, in seconds.
_SHUTDOWN_SECONDS = 0.2


class HttpServer:
    """Answers the kubelet and people."""

    def __init__(self, settings: Settings, rows: PodRows, drain: Drain, state: Callable[[], dict[str, Any]]) -> None:
        self._settings = settings
        self._token = settings.token.encode()
        self._rows = rows
        self._drain = drain
        self._state = state
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
        app.router.add_get("/drain", self._drained)
        app.router.add_get("/state", self._told)
        # No access log: the token stands in the address.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
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
        if self._rows.registered.is_set():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the pod is not registered in the database yet\n")

    async def _drained(self, request: web.Request) -> web.Response:
        self._authorize(request)
        self._drain.begin(self._settings.times.drain)
        return _json(dataclasses.asdict(await self._drain.wait()))

    async def _told(self, request: web.Request) -> web.Response:
        self._authorize(request)
        return _json(self._state())

    def _authorize(self, request: web.Request) -> None:
        shown = request.query.get("token", "").encode(errors="backslashreplace")
        if not hmac.compare_digest(shown, self._token):
            raise web.HTTPForbidden(text="the token is not this pod's\n")


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(text=json.dumps(value, indent=2) + "\n", content_type="application/json")
