"""The pod's rows: registered at the start, alive while the pod lives, stopped when its processes end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs
from pgqrs import pods
from pgqrs.database import Database
from tests.sidecar.processes import HOSTNAME, POD_UID, QUEUE, TOKEN, Pod, eventually

if TYPE_CHECKING:
    from tests.sidecar.conftest import Observer


async def test_it_registers_the_pod_and_beats(pod: Pod, database: Observer) -> None:
    await pod.sidecar()

    (row,) = await database.rows()
    assert (row["name"], row["state"], row["container"]) == (f"{HOSTNAME}:1", "ready", None)
    assert (row["pod_name"], row["pod_namespace"]) == ("web-1", "shop")

    async def beaten() -> bool:
        return bool((await database.rows())[0]["heartbeat_at"] > row["heartbeat_at"])

    await eventually(beaten)
    assert [(await pod.get(path))[0] for path in ("/live", "/ready", "/started")] == [200, 200, 200]


async def test_the_first_process_gets_the_spare_row_and_the_second_a_new_one(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    (spare,) = await database.rows()

    async with pod.session(container="app") as first, pod.session(container="helper") as second:
        one, two = await first.welcome(), await second.welcome()
        assert one == {"type": "welcome", "worker_id": spare["id"], "name": f"{HOSTNAME}:1", "state": "ready"}
        assert two["name"] == f"{HOSTNAME}:2"
        assert [row["container"] for row in await database.rows()] == ["app", "helper"]


async def test_a_killed_process_frees_its_messages_within_a_second(
    pod: Pod, database: Observer, producer: pgqrs.Producer, dsn: str
) -> None:
    await pod.sidecar()
    app = await pod.app(handler_seconds=60)
    message = await producer.enqueue({"to": "ada"})
    await app.line(event="leased", id=message)
    worker_id = (await app.line(event="started"))["worker_id"]

    async with pgqrs.Consumer(dsn, QUEUE, "elsewhere", 1) as other:
        assert await other.dequeue() == []
        app.signal(signal.SIGKILL)
        (again,) = await eventually(other.dequeue, within=1.0)
        assert again.id == message

    dead = await database.row(worker_id)
    assert (dead["state"], dead["stop_reason"]) == ("stopped", "process died")

    async def replaced() -> bool:
        return [row["container"] for row in await database.rows()] == [None]

    await eventually(replaced)
    (fresh,) = await database.rows()
    assert fresh["id"] != worker_id
    async with pod.session() as session:
        assert (await session.welcome())["worker_id"] == fresh["id"]


async def test_no_spare_row_while_another_process_lives(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as first:
        one = await first.welcome()
        async with pod.session() as second:
            two = await second.welcome()

        async def stopped() -> bool:
            return await database.state(two["worker_id"]) == "stopped"

        await eventually(stopped)
        assert [row["id"] for row in await database.rows()] == [one["worker_id"]]


async def test_a_spare_row_that_somebody_stops_is_replaced(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    for statement in ("UPDATE pgqrs_workers SET status = 'stopped'", "DELETE FROM pgqrs_workers"):
        (spare,) = await database.rows()
        await database.fetch(statement)

        async def replaced(spare: asyncpg.Record = spare) -> bool:
            return [row["id"] > spare["id"] for row in await database.rows()] == [True]

        await eventually(replaced)
    (fresh,) = await database.rows()
    async with pod.session() as session:
        assert (await session.welcome())["worker_id"] == fresh["id"]


async def test_a_process_that_could_not_be_given_a_row_leaves_the_pod_with_one(pod: Pod, database: Observer) -> None:
    # So far apart that no heartbeat finds it out.
    await pod.sidecar(PGQRS_HEARTBEAT_SECONDS="600")
    await database.fetch("UPDATE pgqrs_workers SET status = 'stopped'")
    await database.fetch("UPDATE pgqrs_queues SET queue_name = 'gone'")
    async with pod.session() as session:
        refusal = await session.next()
        assert refusal is not None
        assert refusal["code"] == "unknown_queue"
    await database.fetch("UPDATE pgqrs_queues SET queue_name = $1", QUEUE)
    await eventually(database.rows)


async def test_a_job_that_ends_leaves_one_row(pod: Pod, database: Observer) -> None:
    sidecar = await pod.sidecar()
    async with pod.session() as session:
        await session.welcome()
        session.send("goodbye")
        assert await session.next() == {"type": "bye"}
    # Its container has ended, so the kubelet ends the sidecar.
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended() == 0
    assert [row["stop_reason"] for row in await database.rows(live=False)] == ["process ended"]


async def test_a_pod_that_goes_on_after_a_goodbye_gets_a_row_again(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        await session.welcome()
        session.send("goodbye")
        assert await session.next() == {"type": "bye"}
    await eventually(database.rows)


async def test_a_row_that_is_being_made_when_the_pod_ends_is_stopped(pod: Pod, database: Observer, dsn: str) -> None:
    sidecar = await pod.sidecar()
    # From now on a registration waits in its very last moment, its commit.
    await database.fetch(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END'"
    )
    await database.fetch(
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON pgqrs_workers DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    blocker = await asyncpg.connect(dsn)
    try:
        await blocker.execute("SELECT pg_advisory_lock(7)")
        async with pod.session() as session:
            await session.welcome()

        async def commits() -> bool:
            return bool(await database.fetch("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

        await eventually(commits)
        sidecar.signal(signal.SIGTERM)
        await sidecar.line(message="the pod ends")
    finally:
        await blocker.close()
    assert await sidecar.ended() == 0
    assert [row["stop_reason"] for row in await database.rows(live=False)] == ["process died", "pod ended"]


@pytest.mark.parametrize(("state", "told"), [("suspended", ["suspended"]), ("stopped", [])])
async def test_a_heartbeat_that_waited_tells_what_it_waited_for(
    pod: Pod, database: Observer, dsn: str, state: str, told: list[str]
) -> None:
    sidecar = await pod.sidecar()
    sidecar.signal(signal.SIGKILL)
    await sidecar.ended()
    holder = await asyncpg.connect(dsn)
    try:
        async with Database(dsn) as db:
            async with holder.transaction():
                await holder.execute(f"UPDATE pgqrs_workers SET status = '{state}'")
                beating = asyncio.create_task(pods.beat(db, POD_UID))

                async def waits() -> bool:
                    return bool(await database.fetch("SELECT FROM pg_locks WHERE NOT granted"))

                await eventually(waits)
            assert [pulse.status for pulse in (await beating).values()] == told
    finally:
        await holder.close()


async def test_goodbye_stops_the_row_and_frees_what_it_held(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        session.send("goodbye")
        assert await session.next() == {"type": "bye"}

        # The answer came after the database had it.
        row = await database.row(worker_id)
        assert (row["state"], row["stop_reason"]) == ("stopped", "process ended")
        assert (await database.message(message))["consumer_worker_id"] is None
        assert await session.next() is None


async def test_an_app_that_closes_its_consumer_says_goodbye(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    app = await pod.app()
    app.signal(signal.SIGUSR1)
    await app.line(event="ended")
    worker_id = (await app.line(event="started"))["worker_id"]
    assert (await database.row(worker_id))["stop_reason"] == "process ended"


async def test_a_state_that_somebody_changes_reaches_the_process(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        for state in ("suspended", "ready", "interrupted", "stopped"):
            await database.fetch(
                "UPDATE pgqrs_workers SET status = $2::text::worker_status WHERE id = $1", worker_id, state
            )
            assert await session.next() == {"type": "state", "state": state}


async def test_a_process_that_does_not_answer_gets_no_heartbeats_and_is_not_stopped(
    pod: Pod, database: Observer
) -> None:
    sidecar = await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        await sidecar.line(message="process does not answer, its heartbeats pause", worker_id=worker_id)
        silent_since = (await database.row(worker_id))["heartbeat_at"]

        # A row that is not held back shows that beats went on meanwhile.
        async with pod.session() as other:
            other_id = (await other.welcome())["worker_id"]
            start = (await database.row(other_id))["heartbeat_at"]

            async def beaten() -> bool:
                return bool((await database.row(other_id))["heartbeat_at"] > start)

            await eventually(beaten)
        row = await database.row(worker_id)
        assert (row["heartbeat_at"], row["state"]) == (silent_since, "ready")

        async def alive_again() -> bool:
            return bool((await database.row(worker_id))["heartbeat_at"] > silent_since)

        answering = asyncio.create_task(session.next())
        await eventually(alive_again)
        answering.cancel()
        await asyncio.wait([answering])


async def test_a_session_for_another_queue_gets_a_row_of_that_queue(pod: Pod, database: Observer, dsn: str) -> None:
    await pod.sidecar()
    async with pgqrs.Admin(dsn) as admin:
        other = await admin.create_queue("letters")
    (spare,) = await database.rows()
    async with pod.session(queue="letters") as session:
        worker_id = (await session.welcome())["worker_id"]
        assert worker_id != spare["id"]
        assert (await database.row(worker_id))["queue_id"] == other.id
    async with pod.session(queue="nonsense") as session:
        refusal = await session.next()
        assert refusal is not None
        assert (refusal["type"], refusal["code"]) == ("error", "unknown_queue")


async def test_the_state_page_tells_what_the_sidecar_knows(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session(pid=4711) as session:
        worker_id = (await session.welcome())["worker_id"]
        await database.lease(worker_id)

        async def shown() -> bool:
            state = await pod.state()
            (worker,) = state["workers"]
            return bool(worker["leased"] == 1 and worker["session"] and worker["pid"] == 4711)

        await eventually(shown)
    assert (await pod.get("/state", token=TOKEN + "x"))[0] == 403
