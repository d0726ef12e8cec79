"""Listens for the webhook's requests over TLS, and gives nobody time who does not use it.

Whoever reaches the port can open connections, not just the API server; what they cost has to end by itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import ssl

    from aiohttp.typedefs import Handler

#: How long a connection may take for its TLS handshake, and then until its request is there but for the body.
SILENCE_SECONDS = 5.0
#: How long the rest of a request that was answered already is waited for, and then the end of the connection.
_LINGER_SECONDS = 1.0
_CLOSE_SECONDS = 5.0


class Listener:
    """A port with an application behind it."""

    def __init__(self, application: web.Application, context: ssl.SSLContext) -> None:
        """Take what answers, and the TLS context, whose certificate may change at any time."""
        self._context = context
        application.middlewares.append(_one_request)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            # An API server compresses no request, so nothing that looks so is unpacked.
            auto_decompress=False,
            keepalive_timeout=SILENCE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            shutdown_timeout=_CLOSE_SECONDS,
        )
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        """Listen at every address.

        Raises:
            OSError: the port is taken.
        """
        await self._runner.setup()
        protocols = self._runner.server
        assert protocols is not None  # noqa: S101 - it is made by setup()
        self._server = await asyncio.get_running_loop().create_server(
            protocols,
            None,
            port,
            ssl=self._context,
            ssl_handshake_timeout=SILENCE_SECONDS,
            ssl_shutdown_timeout=_LINGER_SECONDS,
        )

    async def aclose(self) -> None:
        """Stop listening, and finish what was asked, within 5 s."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()


@web.middleware
async def _one_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Close each connection after its answer.

    A kept one would lead to a replica whose node is gone, until requests on it have timed out; and where this side ends
    one that is idle, a request may be on its way.
    """
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.force_close()
        raise
    response.force_close()
    return response
