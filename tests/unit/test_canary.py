"""What the leader writes comes back to it on a watch, or it is known to be deaf."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from pgqrs_operator import canary as canaries
from pgqrs_operator.canary import Canary
from pgqrs_operator.leases import LeaseClient
from tests.operator.lease_server import CANDIDATE, SWALLOWED, LeaseServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_DEADLINE = 30.0


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LeaseServer]:
    monkeypatch.setattr(canaries, "_RETRY_SECONDS", 0.05)
    made = LeaseServer()
    await made.start()
    made.write_lease(holderIdentity="a_10.0.0.1")
    yield made
    await made.aclose()


@asynccontextmanager
async def watched(server: LeaseServer, *, silence: float = 60.0) -> AsyncIterator[Canary]:
    async with ApiClient(Configuration(host=f"http://127.0.0.1:{server.port}")) as client:
        client.set_default_header(CANDIDATE, "a")
        canary = Canary(LeaseClient(client, "pgqrs-system", "pgqrs-operator"), silence=silence)
        task = asyncio.create_task(canary.run())
        try:
            yield canary
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def seen(server: LeaseServer, canary: Canary) -> None:
    """Renew until a renewal comes back; those that fall between two watches are not shown."""
    async with asyncio.timeout(_DEADLINE):
        while canary.seen_at is None:
            server.write_lease(renewTime="again")
            await asyncio.sleep(0.05)


async def test_each_renewal_comes_back(server: LeaseServer) -> None:
    async with watched(server) as canary:
        await eventually(lambda: server.watches)
        assert canary.seen_at is None
        for number in range(3):
            canary.seen_at = None
            server.write_lease(renewTime=str(number))
            await eventually(lambda: canary.seen_at is not None)
    assert server.watches == 1


async def test_a_watch_that_falls_silent_is_opened_anew(server: LeaseServer) -> None:
    async with watched(server, silence=0.5) as canary:
        await eventually(lambda: server.watches)
        server.deaf = True
        server.write_lease(renewTime="1")
        # Every new watch begins with the Lease as it is; that proves nothing.
        await eventually(lambda: server.watches > 2)
        assert canary.seen_at is None
        server.deaf = False

        await seen(server, canary)


@pytest.mark.parametrize("fault", [403, 500, SWALLOWED])
async def test_a_watch_that_is_refused_is_tried_again_and_told_of_once(
    server: LeaseServer, caplog: pytest.LogCaptureFixture, fault: int | str
) -> None:
    server.faults["a"] = fault
    async with watched(server, silence=0.3) as canary:
        await eventually(lambda: server.attempts > 3)
        said = [record for record in caplog.records if record.name == "pgqrs_operator.canary"]
        assert len(said) == 1
        server.faults.clear()

        await seen(server, canary)
