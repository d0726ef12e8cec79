"""A database that takes everything and answers nothing: the app goes on, nothing is forgotten or said that is false."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from tests.sidecar.processes import TOKEN, Pod, eventually
from tests.sidecar.trouble import HEALS_SECONDS, attended, beaten, ends, failing, number, probes, stopped

if TYPE_CHECKING:
    from tests.sidecar.conftest import Observer
    from tests.support.proxy import Proxy


async def test_a_silent_database_at_the_start_is_waited_for(far_pod: Pod, database: Observer, proxy: Proxy) -> None:
    proxy.swallow()
    sidecar = await far_pod.sidecar(started=False)
    assert await number(far_pod, "database_up") is None, "nobody knows yet"
    await sidecar.line(message="database trouble begins", within=HEALS_SECONDS)
    assert await probes(far_pod) == [200, 200, 503]
    assert [await number(far_pod, name) for name in ("database_up", "registered")] == [0, 0]
    assert await database.rows() == []
    proxy.heal()
    await eventually(far_pod.is_started, within=HEALS_SECONDS)
    assert [await number(far_pod, name) for name in ("database_up", "registered")] == [1, 1]
    assert len(await database.rows()) == 1


async def test_a_pod_that_ends_before_its_database_ever_answered(
    far_pod: Pod, database: Observer, proxy: Proxy
) -> None:
    proxy.swallow()
    sidecar = await far_pod.sidecar(started=False)
    await ends(sidecar)
    assert await database.rows() == []


async def test_a_database_that_falls_silent_changes_nothing_for_the_app(
    far_pod: Pod, database: Observer, proxy: Proxy
) -> None:
    sidecar = await far_pod.sidecar()
    async with far_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        async with attended(session) as heard:
            proxy.swallow()
            await failing(far_pod)
            assert await probes(far_pod) == [200, 200, 200]
            silent_since = (await database.row(worker_id))["heartbeat_at"]
            await failing(far_pod, 3.0)
            row = await database.row(worker_id)
            assert (row["state"], row["heartbeat_at"]) == ("ready", silent_since)
            proxy.heal()
            await beaten(database, worker_id)
            assert heard == []
        # It was never anybody else's.
        assert (await database.message(message))["consumer_worker_id"] == worker_id
    await stopped(database, worker_id)
    assert (await database.message(message))["consumer_worker_id"] is None
    assert sidecar.count(message="database trouble begins") == 1


async def test_a_process_that_dies_in_the_silence_is_not_forgotten(
    far_pod: Pod, database: Observer, proxy: Proxy
) -> None:
    await far_pod.sidecar()
    async with far_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        proxy.swallow()
    await failing(far_pod)
    assert await database.state(worker_id) == "ready"
    proxy.heal()
    await stopped(database, worker_id)
    assert (await database.message(message))["consumer_worker_id"] is None

    async def replaced() -> bool:
        return [row["container"] for row in await database.rows()] == [None]

    await eventually(replaced, within=HEALS_SECONDS)


async def test_a_drain_into_the_silence_ends_with_its_time_and_does_not_claim_success(
    far_pod: Pod, database: Observer, proxy: Proxy
) -> None:
    sidecar = await far_pod.sidecar()
    async with far_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        asking = asyncio.create_task(far_pod.get("/drain", token=TOKEN))

        async def begun() -> bool:
            return await database.state(worker_id) == "interrupted"

        await eventually(begun)
        proxy.swallow()
        session.send("drained")
        async with attended(session):
            status, text = await asking
        assert (status, json.loads(text)["drained"]) == (200, False)
        proxy.heal()
        await ends(sidecar)
    assert await database.state(worker_id) == "stopped"
    assert (await database.message(message))["consumer_worker_id"] is None


async def test_a_drain_that_begins_in_the_silence_still_tells_the_processes(
    far_pod: Pod, database: Observer, proxy: Proxy
) -> None:
    sidecar = await far_pod.sidecar()
    async with far_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        proxy.swallow()
        asking = asyncio.create_task(far_pod.get("/drain", token=TOKEN))
        drain = await session.next()
        assert drain is not None
        assert drain["type"] == "drain"
        session.send("drained")
        async with attended(session):
            status, text = await asking
        assert (status, json.loads(text)["drained"]) == (200, False)
        assert await database.state(worker_id) == "ready", "nobody could write it down"
        proxy.heal()
        await ends(sidecar)
    assert await database.rows() == []


async def test_sigterm_in_the_silence_ends_the_sidecar_in_time(far_pod: Pod, database: Observer, proxy: Proxy) -> None:
    sidecar = await far_pod.sidecar()
    async with far_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        proxy.swallow()
        async with attended(session):
            await ends(sidecar)
    assert sidecar.count(level="ERROR") == 1
    row = await database.row(worker_id)
    assert (row["state"], row["stop_reason"]) == ("ready", None), "whoever watches heartbeats finds it"
