"""A database that is down, silent, slow, read-only or behind PgBouncer: the app goes on and nothing false is said."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import pgqrs
from tests.sidecar.conftest import Observer
from tests.sidecar.processes import HOSTNAME, QUEUE, TOKEN, Pod, RawSession, eventually
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import PASSWORD, PostgresServer
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.sidecar.processes import Process

#: What the sidecar may take for its end when the database does not answer: the processes' last drain, the tries to stop
#: the rows, and the connections that are given up.
_END_SECONDS = 15.0
#: A dead line is noticed, left, and another one is open by then.
_HEALS_SECONDS = 25.0


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    async with Proxy(postgres.port) as opened:
        yield opened


@pytest.fixture
async def far_pod(dsn: str, database: Observer, proxy: Proxy) -> AsyncIterator[Pod]:
    """A pod whose database is behind the proxy, with a drain that is short enough to be waited for."""
    assert database
    pod = Pod(dsn.replace(f":{urlsplit(dsn).port}/", f":{proxy.port}/"), env={"PGQRS_DRAIN_SECONDS": "2"})
    yield pod
    await pod.destroy()


@asynccontextmanager
async def _attended(session: RawSession) -> AsyncIterator[list[dict[str, Any]]]:
    """Answer pings, and keep what else the sidecar says."""
    heard: list[dict[str, Any]] = []

    async def listen() -> None:
        while (message := await session.next(within=600)) is not None:
            heard.append(message)

    listening = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listening.cancel()
        await asyncio.wait([listening])


async def _failing(pod: Pod, seconds: float = 0.0) -> None:
    """Wait until the sidecar has known for so long that the database does not answer."""

    async def look() -> bool:
        since = (await pod.state())["database_failing_seconds"]
        return since is not None and since >= seconds

    await eventually(look, within=_HEALS_SECONDS)


async def _beaten(database: Observer, worker_id: int) -> None:
    before = (await database.row(worker_id))["heartbeat_at"]

    async def look() -> bool:
        return bool((await database.row(worker_id))["heartbeat_at"] > before)

    await eventually(look, within=_HEALS_SECONDS)


async def _stopped(database: Observer, worker_id: int) -> None:
    async def look() -> bool:
        return await database.state(worker_id) == "stopped"

    await eventually(look, within=_HEALS_SECONDS)


async def _probes(pod: Pod) -> list[int]:
    return [(await pod.get(path))[0] for path in ("/live", "/ready", "/started")]


async def _ends(sidecar: Process) -> None:
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended(within=_END_SECONDS) == 0
    assert PASSWORD not in sidecar.output


# Black holes


async def test_a_silent_database_at_the_start_is_waited_for(far_pod: Pod, database: Observer, proxy: Proxy) -> None:
    proxy.swallow()
    sidecar = await far_pod.sidecar(started=False)
    await sidecar.line(message="database trouble begins", within=_HEALS_SECONDS)
    assert await _probes(far_pod) == [200, 200, 503]
    assert await database.rows() == []
    proxy.heal()
    await eventually(far_pod.is_started, within=_HEALS_SECONDS)
    assert len(await database.rows()) == 1


async def test_a_pod_that_ends_before_its_database_ever_answered(
    far_pod: Pod, database: Observer, proxy: Proxy
) -> None:
    proxy.swallow()
    sidecar = await far_pod.sidecar(started=False)
    await _ends(sidecar)
    assert await database.rows() == []


async def test_a_database_that_falls_silent_changes_nothing_for_the_app(
    far_pod: Pod, database: Observer, proxy: Proxy
) -> None:
    sidecar = await far_pod.sidecar()
    async with far_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        async with _attended(session) as heard:
            proxy.swallow()
            await _failing(far_pod)
            assert await _probes(far_pod) == [200, 200, 200]
            silent_since = (await database.row(worker_id))["heartbeat_at"]
            await _failing(far_pod, 3.0)
            row = await database.row(worker_id)
            assert (row["state"], row["heartbeat_at"]) == ("ready", silent_since)
            proxy.heal()
            await _beaten(database, worker_id)
            assert heard == []
        # It was never anybody else's.
        assert (await database.message(message))["consumer_worker_id"] == worker_id
    await _stopped(database, worker_id)
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
    await _failing(far_pod)
    assert await database.state(worker_id) == "ready"
    proxy.heal()
    await _stopped(database, worker_id)
    assert (await database.message(message))["consumer_worker_id"] is None

    async def replaced() -> bool:
        return [row["container"] for row in await database.rows()] == [None]

    await eventually(replaced, within=_HEALS_SECONDS)


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
        async with _attended(session):
            status, text = await asking
        assert (status, json.loads(text)["drained"]) == (200, False)
        proxy.heal()
        await _ends(sidecar)
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
        async with _attended(session):
            status, text = await asking
        assert (status, json.loads(text)["drained"]) == (200, False)
        assert await database.state(worker_id) == "ready", "nobody could write it down"
        proxy.heal()
        await _ends(sidecar)
    assert await database.rows() == []


async def test_sigterm_in_the_silence_ends_the_sidecar_in_time(far_pod: Pod, database: Observer, proxy: Proxy) -> None:
    sidecar = await far_pod.sidecar()
    async with far_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        proxy.swallow()
        async with _attended(session):
            await _ends(sidecar)
    assert sidecar.count(level="ERROR") == 1
    row = await database.row(worker_id)
    assert (row["state"], row["stop_reason"]) == ("ready", None), "whoever watches heartbeats finds it"


# Down


async def test_an_outage_longer_than_the_heartbeat_timeout(own_postgres: PostgresServer, own_pod: Pod) -> None:
    database = Observer(own_postgres.dsn())
    await database.fetch("UPDATE pgqrs_queues SET heartbeat_timeout = '2 seconds'")
    await own_pod.sidecar()
    async with own_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        async with _attended(session) as heard:
            await asyncio.to_thread(own_postgres.stop)
            await _failing(own_pod, 3.0)
            assert await _probes(own_pod) == [200, 200, 200]
            await asyncio.to_thread(own_postgres.start)
            await _beaten(database, worker_id)
            assert heard == []
        assert (await database.message(message))["consumer_worker_id"] == worker_id


async def test_who_was_taken_for_dead_meanwhile_is_told_and_gets_a_new_row(
    own_postgres: PostgresServer, own_pod: Pod
) -> None:
    database = Observer(own_postgres.dsn())
    sidecar = await own_pod.sidecar()
    async with own_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        sidecar.signal(signal.SIGSTOP)
        await database.fetch("UPDATE pgqrs_workers SET status = 'stopped', stop_reason = 'silent'")
        sidecar.signal(signal.SIGCONT)
        assert await session.next() == {"type": "state", "state": "stopped"}
        async with own_pod.session(worker_id=worker_id) as again:
            refusal = await again.next()
            assert refusal is not None
            assert refusal["code"] == "replaced"
        async with own_pod.session() as again:
            assert (await again.welcome())["worker_id"] > worker_id


# Read-only


async def test_a_fail_over_is_followed_to_the_new_primary() -> None:
    """The old one stays up and answers reads, so nothing may be believed that it says."""
    old = PostgresServer()
    servers = [old]
    try:
        await asyncio.to_thread(old.create)
        async with pgqrs.Admin(old.dsn()) as admin:
            await admin.install()
            await admin.create_queue(QUEUE)
        new = await asyncio.to_thread(old.standby)
        servers.append(new)
        pod = Pod(old.dsn().replace(f":{old.port}/", f":{new.port},127.0.0.1:{old.port}/"))
        try:
            await _fail_over(pod, old, new)
        finally:
            await pod.destroy()
    finally:
        for server in servers:
            await asyncio.to_thread(server.destroy)


async def _fail_over(pod: Pod, old: PostgresServer, new: PostgresServer) -> None:
    before, database = Observer(old.dsn()), Observer(new.dsn())
    sidecar = await pod.sidecar()
    async with pod.session() as session, pod.session(pid=8) as other:
        worker_id = (await session.welcome())["worker_id"]
        other_id = (await other.welcome())["worker_id"]
        message = await before.lease(worker_id)

        async def followed() -> bool:
            return bool(await database.fetch("SELECT FROM pgqrs_messages WHERE id = $1", message))

        await eventually(followed)
        await asyncio.to_thread(new.promote)
        await asyncio.to_thread(old.reload, default_transaction_read_only="on")
        async with _attended(session) as heard, _attended(other):
            await _beaten(database, worker_id)
            assert heard == []
        session.send("goodbye")
        assert await session.next() == {"type": "bye"}
        assert await database.state(worker_id) == "stopped"
        assert (await database.message(message))["consumer_worker_id"] is None
    await _stopped(database, other_id)
    await _ends(sidecar)
    assert await database.rows() == []


# Slow


async def test_a_slow_database_is_only_slow(far_pod: Pod, database: Observer, proxy: Proxy) -> None:
    proxy.delay = 0.1
    far_pod.env["PGQRS_DRAIN_SECONDS"] = "15"
    sidecar = await far_pod.sidecar(started=False)
    await eventually(far_pod.is_started, within=_HEALS_SECONDS)
    async with far_pod.session() as session, far_pod.session(pid=8) as survivor:
        worker_id = (await session.welcome())["worker_id"]
        await survivor.welcome()
        async with _attended(survivor) as heard:
            message = await database.lease(worker_id)
            async with _attended(session):
                await _beaten(database, worker_id)
            session.write(b"this is no JSON\n")
            await _stopped(database, worker_id)
            assert (await database.message(message))["consumer_worker_id"] is None
            assert heard == []
        asking = asyncio.create_task(far_pod.get("/drain", token=TOKEN))
        survivor.send("drained")
        async with _attended(survivor):
            assert json.loads((await asking)[1])["drained"]
    await _ends(sidecar)
    assert await database.rows() == []
    assert sidecar.count(message="database trouble begins") == 0


# Behind PgBouncer


@pytest.fixture
def bouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    made = PgBouncer(postgres)
    made.start()
    yield made
    made.stop()


async def test_a_whole_life_behind_pgbouncer_in_transaction_mode(
    dsn: str, database: Observer, producer: pgqrs.Producer, bouncer: PgBouncer
) -> None:
    pod = Pod(bouncer.dsn(urlsplit(dsn).path.lstrip("/")))
    try:
        sidecar = await pod.sidecar()
        (spare,) = await database.rows()
        victim = await pod.app(handler_seconds=60)
        victim_id = (await victim.line(event="started"))["worker_id"]
        assert victim_id == spare["id"]
        lost = await producer.enqueue({"n": 1})
        await victim.line(event="leased", id=lost)
        app = await pod.app(handler_seconds=1.0)
        worker_id = (await app.line(event="started"))["worker_id"]
        await _beaten(database, victim_id)

        victim.signal(signal.SIGKILL)
        await _stopped(database, victim_id)
        await app.line(event="leased", id=lost, read_ct=2)
        drained = json.loads((await pod.get("/drain", token=TOKEN))[1])
        assert (drained["drained"], drained["leased"]) == (True, 0)
        await app.line(event="archived", id=lost, archived=True)
        (row,) = await database.rows()
        assert (row["id"], row["state"], row["hostname"]) == (worker_id, "suspended", HOSTNAME)

        app.signal(signal.SIGKILL)
        await app.ended()
        await _ends(sidecar)
        assert await database.rows() == []
        assert sidecar.count(level="ERROR") == 0
    finally:
        await pod.destroy()
