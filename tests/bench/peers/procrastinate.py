"""Procrastinate by its own worker.

Default: one job at a time, kept when done. Best: ten at a time, deleted when done, and a connection for each.
"""

from __future__ import annotations

import importlib
from typing import Any

from tests.bench.peers.child import main
from tests.bench.peers.harness import PAYLOAD, Peer

procrastinate: Any = importlib.import_module("procrastinate")


class Procrastinate(Peer):
    """One process with an app that sends and works."""

    def __init__(self, dsn: str, setting: dict[str, Any]) -> None:
        super().__init__(dsn, setting)
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, **setting["pool"]))

        @self._app.task(name="work")  # type: ignore[untyped-decorator] # untyped as seen from here
        async def work(**payload: Any) -> None:
            if "sent" in payload:
                self.handled.arrived(payload["sent"])
            else:
                self.handled.hit()

        self._task = work

    async def install(self) -> None:
        """Install as its command does."""
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()

    async def open(self) -> None:
        """Connect."""
        await self._app.open_async()

    async def one(self, payload: dict[str, Any]) -> None:
        """Send one."""
        await self._task.defer_async(**payload)

    async def many(self, count: int) -> None:
        """Send many."""
        await self._task.batch_defer_async(*[PAYLOAD] * count)

    async def drain(self) -> None:
        """Run its worker until it finds nothing more."""
        await self._app.run_worker_async(
            wait=False, install_signal_handlers=False, listen_notify=False, **self.setting["worker"]
        )

    async def serve(self) -> None:
        """Run its worker for good."""
        await self._app.run_worker_async(install_signal_handlers=False, **self.setting["worker"])


if __name__ == "__main__":
    main(Procrastinate)
