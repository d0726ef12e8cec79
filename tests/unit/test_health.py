"""What the probes of the operator say of a follower and of a leader."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from pgqrs_operator.canary import Canary
from pgqrs_operator.health import HealthServer
from pgqrs_operator.leadership import Leadership
from pgqrs_operator.leases import LeaseClient
from pgqrs_operator.metrics import Metrics
from tests.operator.lease_server import LeaseServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_LONG_AGO = 10_000.0


class Probed:
    """A process as its probes see it."""

    def __init__(self, client: ApiClient, port: int) -> None:
        lease = LeaseClient(client, "pgqrs-system", "pgqrs-operator")
        self.port = port
        self.metrics = Metrics()
        self.leadership = Leadership(lease, "a_10.0.0.1")
        self.canary = Canary(lease)
        self.server = HealthServer(self.metrics, self.leadership, self.canary, port)

    async def get(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def leads(self) -> None:
        """Become the leader, and do once what it must do for ever."""
        await self.leadership.acquire()
        self.metrics.cluster_listed()
        self.metrics.controller_turned()
        for loop in ("one", "other"):
            self.metrics.loop_heard(loop)
        self.canary.seen_at = time.monotonic()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
async def probed() -> AsyncIterator[Probed]:
    api = LeaseServer()
    await api.start()
    async with ApiClient(Configuration(host=f"http://127.0.0.1:{api.port}")) as client:
        made = Probed(client, _free_port())
        await made.server.start()
        yield made
        await made.server.aclose()
    await api.aclose()


async def test_a_follower_is_ready_once_it_knows_the_lease_and_the_cluster(probed: Probed) -> None:
    assert (await probed.get("/healthz"))[0] == 200
    assert await probed.get("/readyz") == (503, "the Lease was not read yet\n")
    probed.leadership._seen_at = time.monotonic()  # noqa: SLF001 - as if another one held it
    assert await probed.get("/readyz") == (503, "the cluster was not listed yet\n")
    probed.metrics.cluster_listed()
    assert await probed.get("/readyz") == (200, "ok, a follower\n")


async def test_a_follower_that_looks_no_more_is_started_anew(probed: Probed) -> None:
    probed.leadership.tried_at -= _LONG_AGO
    status, text = await probed.get("/healthz")
    assert status == 503
    assert text.startswith("lease: nothing for ")


async def test_a_leader_is_ready_once_it_has_listed_and_turned(probed: Probed) -> None:
    await probed.leadership.acquire()
    assert (await probed.get("/readyz"))[0] == 503
    assert (await probed.get("/healthz"))[0] == 200
    await probed.leads()
    assert await probed.get("/readyz") == (200, "ok, the leader\n")


@pytest.mark.parametrize("what", ["lease", "listing", "controller", "canary", "databases"])
async def test_a_leader_is_alive_only_while_everything_goes_on(probed: Probed, what: str) -> None:
    await probed.leads()
    assert (await probed.get("/healthz"))[0] == 200
    then = time.monotonic() - _LONG_AGO
    match what:
        case "lease":
            probed.leadership.tried_at = then
        case "listing":
            probed.metrics.listed_at = then
        case "controller":
            probed.metrics.turned_at = then
        case "databases":
            probed.metrics._heard["other"] = then  # noqa: SLF001 - one of two hangs
        case _:
            probed.canary.seen_at = then
    status, text = await probed.get("/healthz")
    assert status == 503
    assert text.startswith(f"{what}: nothing for ")


async def test_a_leader_that_never_saw_its_own_writes_is_started_anew(probed: Probed) -> None:
    """Nor may it wait for ever for the first time."""
    await probed.leads()
    probed.canary.seen_at = None
    assert (await probed.get("/healthz"))[0] == 200
    assert probed.leadership.leads_since is not None
    probed.leadership.leads_since -= _LONG_AGO
    status, text = await probed.get("/healthz")
    assert status == 503
    assert text.startswith("canary: nothing for ")


async def test_a_database_that_nobody_looks_after_any_more_is_not_waited_for(probed: Probed) -> None:
    await probed.leads()
    probed.metrics._heard["other"] -= _LONG_AGO  # noqa: SLF001 - as if it had hung
    assert "database_loop_age_seconds 1000" in (await probed.get("/metrics"))[1]
    assert (await probed.get("/healthz"))[0] == 503
    probed.metrics.loop_ended("other")
    assert (await probed.get("/healthz"))[0] == 200
    probed.metrics.loop_ended("one")
    assert (await probed.get("/healthz"))[0] == 200


async def test_metrics_are_served(probed: Probed) -> None:
    probed.metrics.cluster_listed()
    status, text = await probed.get("/metrics")
    assert status == 200
    assert "pgqrs_operator_last_listing_timestamp_seconds" in text
