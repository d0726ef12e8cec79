"""A TCP proxy between a client and a server that cuts, delays and swallows, each connection by itself.

What it swallows it still acknowledges, as a stateful firewall or a hung server does: no kernel notices.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._swallowing = proxy.swallowing

    @property
    def swallowing(self) -> bool:
        """Whether nothing comes through any more."""
        return self._swallowing

    def swallow(self) -> None:
        """Let nothing through from now on, in neither direction, and close nothing; what was taken is lost for good."""
        self._swallowing = True

    def cut(self) -> None:
        """Reset both sides at once."""
        for side in (self._client, self._server):
            if side is not None:
                side.transport.abort()

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Carry bytes until one side ends."""
        try:
            if self._swallowing:
                await self._carry(reader, self._client)
                return
            upstream, self._server = await asyncio.open_connection(*self._proxy.server)
            directions = [
                asyncio.create_task(self._carry(reader, self._server)),
                asyncio.create_task(self._carry(upstream, self._client)),
            ]
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.wait(directions)
        except OSError:
            # The server is not there: the client finds out by the cut.
            return
        finally:
            self.cut()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await asyncio.sleep(self._proxy.delay)
                if not self._swallowing:
                    target.write(data)
                    await target.drain()
            if self._swallowing:
                # Whoever gave up is not told on to the other side either.
                await asyncio.get_running_loop().create_future()


class Proxy:
    """A port on loopback that leads to a server."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        """Remember the server's address.

        Args:
            port: where the server listens; may be changed later, and is for new connections.
            host: the server's address.
        """
        self.server = (host, port)
        #: Seconds that every piece of data is held up, in each direction.
        self.delay = 0.0
        #: Whether new connections are accepted and swallowed.
        self.swallowing = False
        self.links: list[Link] = []
        #: How many connections there ever were.
        self.accepted = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._listener.wait_closed()

    @property
    def port(self) -> int:
        """Where clients connect."""
        assert self._listener is not None
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    def swallow(self) -> None:
        """Black-hole everything: what is open and what is opened from now on."""
        self.swallowing = True
        for link in self.links:
            link.swallow()

    def heal(self) -> None:
        """Serve new connections again; what was swallowed stays dead."""
        self.swallowing = False

    def cut(self) -> None:
        """Reset every open connection."""
        for link in list(self.links):
            link.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = Link(self, writer)
        self.links.append(link)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await link.run(reader)
        except asyncio.CancelledError:
            # Only our own end cancels; asyncio's server would report it as an error.
            return
        finally:
            self.links.remove(link)
            self._tasks.discard(task)
