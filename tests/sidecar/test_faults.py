"""What breaks: the sidecar itself, and the database in the middle of it all."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pgqrs
from tests.sidecar.conftest import Observer
from tests.sidecar.processes import QUEUE, TOKEN, Pod, eventually
from tests.support.postgres import PASSWORD, free_port

if TYPE_CHECKING:
    import pytest

    from tests.support.postgres import PostgresServer


async def test_a_killed_sidecar_comes_back_and_nothing_is_delivered_twice(
    pod: Pod, database: Observer, producer: pgqrs.Producer
) -> None:
    sidecar = await pod.sidecar()
    app = await pod.app(handler_seconds=1.5)
    worker_id = (await app.line(event="started"))["worker_id"]
    message = await producer.enqueue({"n": 1})
    await app.line(event="leased", id=message)

    sidecar.signal(signal.SIGKILL)
    await sidecar.ended()
    again = await pod.sidecar(PGQRS_REJOIN_SECONDS="2")
    await again.line(message="session opened", worker_id=worker_id, again=True)
    await app.line(event="archived", id=message, archived=True)
    assert (await database.message(message))["read_ct"] == 1
    assert [row["id"] for row in await database.rows()] == [worker_id]

    # It is the process's own row again: its end is noticed.
    app.signal(signal.SIGKILL)
    await again.line(message="worker stopped", worker_id=worker_id)


async def test_a_process_that_died_together_with_the_sidecar_is_found_dead(pod: Pod, database: Observer) -> None:
    sidecar = await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        sidecar.signal(signal.SIGKILL)
        await sidecar.ended()
    again = await pod.sidecar(PGQRS_REJOIN_SECONDS="0.5")
    await again.line(message="worker stopped", worker_id=worker_id, released=1)
    assert (await database.message(message))["consumer_worker_id"] is None

    async def replaced() -> bool:
        return [row["container"] for row in await database.rows()] == [None]

    await eventually(replaced)


async def test_a_process_that_sends_its_own_heartbeats_is_not_taken_for_dead(pod: Pod, database: Observer) -> None:
    sidecar = await pod.sidecar()
    (row,) = await database.rows()
    sidecar.signal(signal.SIGKILL)
    await sidecar.ended()
    again = await pod.sidecar(PGQRS_REJOIN_SECONDS="1")
    await again.line(message="waiting for processes from before the restart")
    await database.fetch("UPDATE pgqrs_workers SET heartbeat_at = now() WHERE id = $1", row["id"])
    # The pod gets a row for its next process, which is what happens when nobody is waited for any more.
    await again.line(message="worker registered")
    assert await database.state(row["id"]) == "ready"


async def test_a_sidecar_that_finds_a_drain_under_way_goes_on_with_it(pod: Pod, database: Observer) -> None:
    sidecar = await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        asking = asyncio.create_task(pod.get("/drain", token=TOKEN))
        await session.next()

        async def marked() -> bool:
            return bool((await database.row(worker_id))["terminating"])

        await eventually(marked)
        sidecar.signal(signal.SIGKILL)
        await sidecar.ended()
        await asyncio.wait([asking])
        assert asking.exception() is not None

    await pod.sidecar()
    async with pod.session(worker_id=worker_id) as session:
        # It holds nothing, so the second drain may have suspended it before it came back.
        assert (await session.welcome())["state"] in {"interrupted", "suspended"}
        drain = await session.next()
        assert drain is not None
        assert drain["type"] == "drain"
        session.send("drained")

        async def suspended() -> bool:
            return bool((await database.row(worker_id))["status"] == "suspended")

        await eventually(suspended)
    assert (await pod.state())["draining"]


async def test_a_process_that_dies_while_the_database_is_down_is_not_forgotten(
    own_postgres: PostgresServer, own_pod: Pod
) -> None:
    database = Observer(own_postgres.dsn())
    sidecar = await own_pod.sidecar()
    async with own_pod.session() as session, own_pod.session(pid=8) as survivor:
        worker_id = (await session.welcome())["worker_id"]
        survivor_id = (await survivor.welcome())["worker_id"]
        message = await database.lease(worker_id)
        await asyncio.to_thread(own_postgres.stop)
        await sidecar.line(message="database trouble begins")
        session.send("goodbye")
        # The answer does not wait for the database for ever.
        assert await session.next() == {"type": "bye"}
        assert [(await own_pod.get(path))[0] for path in ("/live", "/ready", "/started")] == [200, 200, 200]
        assert (await own_pod.state())["database_failing_seconds"] is not None

        await asyncio.to_thread(own_postgres.start)
        await sidecar.line(message="worker stopped", worker_id=worker_id, released=1)
        assert (await database.message(message))["consumer_worker_id"] is None
        before = (await database.row(survivor_id))["heartbeat_at"]

        async def beaten() -> bool:
            survivor.send("pong", n=0)
            return bool((await database.row(survivor_id))["heartbeat_at"] > before)

        answering = asyncio.create_task(survivor.next())
        await eventually(beaten)
        answering.cancel()
        await asyncio.wait([answering])
    # Once per change, not once per attempt.
    assert sidecar.count(message="database trouble begins") == sidecar.count(message="database trouble is over") == 1


async def test_a_pod_starts_while_the_database_is_down(own_postgres: PostgresServer, own_pod: Pod) -> None:
    await asyncio.to_thread(own_postgres.stop)
    sidecar = await own_pod.sidecar(started=False)
    await sidecar.line(message="database trouble begins")
    assert [(await own_pod.get(path))[0] for path in ("/live", "/ready", "/started")] == [200, 200, 503]
    async with own_pod.session() as session:
        # It is kept waiting, not refused.
        await asyncio.to_thread(own_postgres.start)
        await session.welcome()
    assert (await own_pod.get("/started"))[0] == 200
    assert PASSWORD not in sidecar.output


async def test_a_sidecar_that_is_restarted_in_an_outage_knows_that_its_pod_has_started(
    own_postgres: PostgresServer, own_pod: Pod
) -> None:
    """Else the kubelet would restart it again after a while, by the hook that drains the pod, which goes on."""
    sidecar = await own_pod.sidecar()
    async with own_pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        await asyncio.to_thread(own_postgres.stop)
        sidecar.signal(signal.SIGKILL)
        await sidecar.ended()
    again = await own_pod.sidecar(started=False)
    await again.line(message="database trouble begins")
    assert not await own_pod.is_started()
    async with own_pod.session(worker_id=worker_id) as session:
        await eventually(own_pod.is_started)
        assert not (await own_pod.state())["registered"]
        await asyncio.to_thread(own_postgres.start)
        assert (await session.welcome())["worker_id"] == worker_id


async def test_sigterm_while_the_database_is_down_ends_in_time(own_postgres: PostgresServer, own_pod: Pod) -> None:
    sidecar = await own_pod.sidecar()
    await asyncio.to_thread(own_postgres.stop)
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended(within=8.0) == 0
    assert sidecar.count(level="ERROR") == 1


async def test_a_queue_that_is_not_there_yet_is_waited_for(pod: Pod, database: Observer, dsn: str) -> None:
    await database.fetch("DELETE FROM pgqrs_queues")
    sidecar = await pod.sidecar(started=False)
    await sidecar.line(message="the pod cannot be registered yet")
    async with pgqrs.Admin(dsn) as admin:
        await admin.create_queue(QUEUE)
    await eventually(pod.is_started)


async def test_no_secret_is_ever_printed(dsn: str, database: Observer) -> None:
    assert database
    wrong = dsn.replace(PASSWORD, "canary-wr0ng")
    for address in (wrong, dsn.replace(str(dsn.rpartition(":")[2]), f"{free_port()}/postgres")):
        pod = Pod(address)
        try:
            sidecar = await pod.sidecar(started=False, PGQRS_LOG_LEVEL="DEBUG")
            await sidecar.line(message="database trouble begins")
            async with pod.session(token=f"almost-{TOKEN}") as session:
                await session.next()
            await pod.get("/drain", token="wrong-canary")
            sidecar.signal(signal.SIGTERM)
            await sidecar.ended()
            for secret in (PASSWORD, "canary-wr0ng", TOKEN, "wrong-canary"):
                assert secret not in sidecar.output
        finally:
            await pod.destroy()


async def test_a_worker_that_had_to_start_without_its_sidecar_is_looked_after_later(
    pod: Pod, database: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**pod.environment, "PGQRS_SIDECAR": f"127.0.0.1:{pod.session_port}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pgqrs.worker._SIDECAR_SECONDS", 0.0)
    monkeypatch.setattr("pgqrs.worker._HEARTBEAT_SECONDS", 0.2)
    async with pgqrs.Consumer() as consumer:
        assert [row["id"] for row in await database.rows()] == [consumer.worker_id]
        sidecar = await pod.sidecar()
        await sidecar.line(message="session opened", worker_id=consumer.worker_id, again=True)
        await asyncio.wait_for(pod.get("/drain", token=TOKEN), 10)
        assert consumer.draining
    assert (await database.row(consumer.worker_id))["stop_reason"] == "process ended"
