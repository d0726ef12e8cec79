"""A database that is down, slow, read-only or behind PgBouncer: the app goes on and nothing false is said."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pgqrs
from tests.sidecar.conftest import Observer
from tests.sidecar.processes import HOSTNAME, QUEUE, TOKEN, Pod, eventually
from tests.sidecar.trouble import HEALS_SECONDS, attended, beaten, ends, failing, number, probes, stopped
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from tests.support.pgbouncer import PgBouncer
    from tests.support.proxy import Proxy


# Down


async def test_an_outage_longer_than_the_heartbeat_timeout(own_postgres: PostgresServer, own_pod: Pod) -> None:
    database = Observer(own_postgres.dsn())
    await database.fetch("UPDATE pgqrs_queues SET heartbeat_timeout = '2 seconds'")
    await own_pod.sidecar()
    async with own_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        async with attended(session) as heard:
            await asyncio.to_thread(own_postgres.stop)
            await failing(own_pod, 3.0)
            assert await probes(own_pod) == [200, 200, 200]
            await asyncio.to_thread(own_postgres.start)
            await beaten(database, worker_id)
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


async def test_a_server_that_turns_read_only_is_trouble_and_nobody_s_end(
    own_postgres: PostgresServer, own_pod: Pod
) -> None:
    database = Observer(own_postgres.dsn())
    await own_pod.sidecar()
    async with own_pod.session() as session, own_pod.session(pid=8) as leaving:
        worker_id = (await session.welcome())["worker_id"]
        leaving_id = (await leaving.welcome())["worker_id"]
        message = await database.lease(leaving_id)
        async with attended(session) as heard:
            await asyncio.to_thread(own_postgres.reload, default_transaction_read_only="on")
            await failing(own_pod, 1.0)
            assert await probes(own_pod) == [200, 200, 200]
            assert await number(own_pod, "database_up") == 0
            leaving.send("goodbye")
            assert await leaving.next() == {"type": "bye"}
            assert await database.state(leaving_id) == "ready", "nobody could write it down"

            await asyncio.to_thread(own_postgres.reload, default_transaction_read_only="off")
            await beaten(database, worker_id)
            await stopped(database, leaving_id)
            assert heard == []
        assert (await database.message(message))["consumer_worker_id"] is None
        assert await number(own_pod, "database_up") == 1


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
        async with attended(session) as heard, attended(other):
            await beaten(database, worker_id)
            assert heard == []
        session.send("goodbye")
        assert await session.next() == {"type": "bye"}
        assert await database.state(worker_id) == "stopped"
        assert (await database.message(message))["consumer_worker_id"] is None
    await stopped(database, other_id)
    await ends(sidecar)
    assert await database.rows() == []


# Slow


async def test_a_slow_database_is_only_slow(far_pod: Pod, database: Observer, proxy: Proxy) -> None:
    proxy.delay = 0.1
    far_pod.env["PGQRS_DRAIN_SECONDS"] = "15"
    sidecar = await far_pod.sidecar(started=False)
    await eventually(far_pod.is_started, within=HEALS_SECONDS)
    async with far_pod.session() as session, far_pod.session(pid=8) as survivor:
        worker_id = (await session.welcome())["worker_id"]
        await survivor.welcome()
        async with attended(survivor) as heard:
            message = await database.lease(worker_id)
            async with attended(session):
                await beaten(database, worker_id)
            session.write(b"this is no JSON\n")
            await stopped(database, worker_id)
            assert (await database.message(message))["consumer_worker_id"] is None
            assert heard == []
        asking = asyncio.create_task(far_pod.get("/drain", token=TOKEN))
        survivor.send("drained")
        async with attended(survivor):
            assert json.loads((await asking)[1])["drained"]
    await ends(sidecar)
    assert await database.rows() == []
    assert sidecar.count(message="database trouble begins") == 0


async def test_sigterm_with_a_slow_database_stops_the_row(far_pod: Pod, database: Observer, proxy: Proxy) -> None:
    """Its statements take longer together than the first attempt to stop it."""
    sidecar = await far_pod.sidecar()
    (row,) = await database.rows()
    proxy.delay = 0.1
    await ends(sidecar)
    assert (await database.row(row["id"]))["stop_reason"] == "pod ended"
    assert sidecar.count(level="ERROR") == 0


async def test_sigterm_in_the_middle_of_a_slow_registration_leaves_no_row(
    far_pod: Pod, database: Observer, proxy: Proxy
) -> None:
    proxy.delay = 0.1
    sidecar = await far_pod.sidecar(started=False)

    async def registers() -> bool:
        query = (
            "SELECT FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database() "
            "AND state = 'idle in transaction'"
        )
        return bool(await database.fetch(query, f"pgqrs sidecar {HOSTNAME}"))

    await eventually(registers)
    await ends(sidecar)
    assert [row["stop_reason"] for row in await database.rows(live=False)] == ["pod ended"]


# Behind PgBouncer


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
        await beaten(database, victim_id)

        victim.signal(signal.SIGKILL)
        await stopped(database, victim_id)
        await app.line(event="leased", id=lost, read_ct=2)
        drained = json.loads((await pod.get("/drain", token=TOKEN))[1])
        assert (drained["drained"], drained["leased"]) == (True, 0)
        await app.line(event="archived", id=lost, archived=True)
        (row,) = await database.rows()
        assert (row["id"], row["state"], row["hostname"]) == (worker_id, "suspended", HOSTNAME)

        app.signal(signal.SIGKILL)
        await app.ended()
        await ends(sidecar)
        assert await database.rows() == []
        assert sidecar.count(level="ERROR") == 0
    finally:
        await pod.destroy()
