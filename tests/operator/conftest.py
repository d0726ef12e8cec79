"""An operator's controller at work on a real database and on an API server over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from pgqrs import fleet
from pgqrs_operator.api import Kubernetes
from pgqrs_operator.controller import Controller
from pgqrs_operator.listings import Listings
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.settings import Settings
from pgqrs_operator.store import Store
from tests.operator.api_server import ApiServer
from tests.operator.world import World, queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    import pgqrs
    from pgqrs.database import Database

#: Nothing that a test waits for takes longer, in seconds.
_DEADLINE = 30.0


@dataclass
class Cluster:
    """An API server, and what an operator needs to work on it."""

    server: ApiServer
    kubernetes: Kubernetes
    settings: Settings = field(default_factory=Settings)
    metrics: Metrics = field(default_factory=Metrics)
    store: Store = field(default_factory=Store)

    async def seen(self) -> None:
        """Let the operator see the cluster as it is now."""
        await Listings(self.kubernetes, self.store, self.settings, self.metrics).once()

    async def eventually(self, condition: Callable[[], object]) -> None:
        """Wait until it holds; what changes in the cluster is seen at once meanwhile."""
        async with asyncio.timeout(_DEADLINE):
            while not condition():
                await self.seen()
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Controller]:
        """Run an operator that was just started."""
        self.store = Store()
        await self.seen()
        controller = Controller(self.kubernetes, self.store, self.settings, self.metrics)
        task = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            task.cancel()
            await asyncio.wait([task])


@asynccontextmanager
async def a_cluster() -> AsyncIterator[Cluster]:
    """Run an API server."""
    server = ApiServer()
    await server.start()
    try:
        async with ApiClient(Configuration(host=f"http://127.0.0.1:{server.port}")) as client:
            yield Cluster(server, Kubernetes(client))
    finally:
        await server.aclose()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with a_cluster() as made:
        yield made


@pytest.fixture
def world(admin: pgqrs.Admin) -> World:
    return World(admin.database, queues=(queue(),))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The names of queues for each time that messages are counted."""
    noted: list[set[str]] = []
    count = fleet.counts

    async def counted(db: Database, names: Collection[str]) -> dict[str, fleet.FleetCounts]:
        noted.append(set(names))
        return await count(db, names)

    monkeypatch.setattr("pgqrs.fleet.counts", counted)
    return noted
