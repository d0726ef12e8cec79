"""Apps that know nothing of Kubernetes, such as upstream's client: the sidecar finds and looks after their rows."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgqrs import pods
from pgqrs.database import Database
from tests.sidecar.processes import HOSTNAME, POD_UID, QUEUE, TOKEN, Pod, Process, eventually
from tests.support import upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import pgqrs
    from tests.sidecar.conftest import Observer

    Start = Callable[[float], Awaitable[Process]]

_APP = Path(__file__).with_name("unmodified_app.py")


@pytest.fixture
async def start(dsn: str) -> AsyncIterator[Start]:
    """Starts processes of upstream's real client, whose handler takes so many seconds, and ends them all."""
    program = await asyncio.to_thread(upstream.python)
    processes = []

    async def begin(handler_seconds: float) -> Process:
        process = Process(
            await asyncio.create_subprocess_exec(
                program,
                "-I",
                _APP,
                dsn,
                QUEUE,
                str(handler_seconds),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd="/",
                env={},
            )
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        await process.destroy()


async def _insert(database: Observer, name: str) -> int:
    """What a client of upstream does when it registers."""
    (row,) = await database.fetch(
        "INSERT INTO pgqrs_workers (name, queue_id, status) SELECT $1, id, 'ready' FROM pgqrs_queues RETURNING id", name
    )
    return int(row["id"])


async def _rename(database: Observer, worker_id: int, name: str) -> None:
    """Give a row the name that its process would have asked for.

    What takes a name in upstream's Python hangs at times, and after the registration a process knows its row by the id.
    """
    await database.fetch("UPDATE pgqrs_workers SET name = $2 WHERE id = $1", worker_id, name)


async def _adopted(database: Observer, worker_id: int) -> None:
    async def look() -> bool:
        return bool((await database.row(worker_id))["pod_uid"] == POD_UID)

    await eventually(look)


async def _beaten(database: Observer, worker_id: int) -> None:
    """Wait for two heartbeats, so that one of them began after the call."""
    for _ in range(2):
        before = (await database.row(worker_id))["heartbeat_at"]

        async def look(before: object = before) -> bool:
            return bool((await database.row(worker_id))["heartbeat_at"] != before)

        await eventually(look)


@pytest.mark.parametrize("name", ["web-1:1", "web-1", f"{HOSTNAME}:7", None], ids=lambda name: name or "invented")
async def test_a_row_is_beaten_drained_and_stopped_with_its_pod(
    pod: Pod, database: Observer, producer: pgqrs.Producer, start: Start, name: str | None
) -> None:
    if name is None:
        pod.env |= {"PGQRS_POD_NAME": socket.gethostname(), "PGQRS_HOSTNAME": f"{socket.gethostname()}.shop"}
    sidecar = await pod.sidecar()
    app = await start(2.0)
    worker_id = (await app.line(event="started"))["worker_id"]
    if name is not None:
        await _rename(database, worker_id, name)
    await sidecar.line(message="rows of unmodified apps adopted", worker_ids=[worker_id])
    row = await database.row(worker_id)
    assert (row["pod_uid"], row["pod_name"], row["pod_namespace"]) == (
        POD_UID, pod.environment["PGQRS_POD_NAME"], "shop",
    )  # fmt: skip
    assert row["name"] == f"{name}#{worker_id}" if name else row["hostname"].startswith(f"{socket.gethostname()}-")

    # Its own loop sends none while a handler runs.
    message = await producer.enqueue({"n": 1})
    await app.line(event="leased", id=message)
    await _beaten(database, worker_id)
    assert app.count(event="handled") == 0, "the handler ended too early to show anything"

    waiting = await producer.enqueue({"n": 2})
    asking = asyncio.create_task(pod.get("/drain", token=TOKEN))

    async def interrupted() -> bool:
        return await database.state(worker_id) == "interrupted"

    await eventually(interrupted)
    assert (app.count(event="handled"), asking.done()) == (0, False)
    status, text = await asking
    assert (status, json.loads(text)["drained"]) == (200, True)
    assert app.count(event="handled", id=message) == 1
    done = await database.message(message)
    assert (done["archived_at"] is not None, done["read_ct"]) == (True, 1)
    assert "suspended" in (await app.line(event="ended"))["why"]
    assert (await database.message(waiting))["read_ct"] == 0
    assert await database.state(worker_id) == "suspended"

    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended() == 0
    row = await database.row(worker_id)
    assert (row["state"], row["stop_reason"]) == ("stopped", "pod ended")


async def test_what_it_holds_when_the_pod_ends_is_free(
    pod: Pod, database: Observer, producer: pgqrs.Producer, start: Start
) -> None:
    sidecar = await pod.sidecar(PGQRS_DRAIN_SECONDS="0.7")
    app = await start(60.0)
    worker_id = (await app.line(event="started"))["worker_id"]
    await _rename(database, worker_id, "web-1:1")
    await _adopted(database, worker_id)
    message = await producer.enqueue({"n": 1})
    await app.line(event="leased", id=message)
    result = json.loads((await pod.get("/drain", token=TOKEN))[1])
    assert (result["drained"], result["leased"]) == (False, 1)
    assert (await database.message(message))["consumer_worker_id"] == worker_id

    app.signal(signal.SIGKILL)
    await app.ended()
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended() == 0
    assert (await database.message(message))["consumer_worker_id"] is None
    assert await database.rows() == []


async def test_a_row_that_comes_at_the_last_moment_is_stopped_too(pod: Pod, database: Observer) -> None:
    sidecar = await pod.sidecar(PGQRS_HEARTBEAT_SECONDS="60")
    worker_id = await _insert(database, "web-1:1")
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended() == 0
    assert await database.state(worker_id) == "stopped"


async def test_a_row_that_comes_during_the_drain_gets_no_messages(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        await session.welcome()
        asking = asyncio.create_task(pod.get("/drain", token=TOKEN))
        drain = await session.next()
        assert drain is not None
        assert drain["type"] == "drain"
        worker_id = await _insert(database, "web-1:1")
        await _adopted(database, worker_id)

        async def marked() -> bool:
            row = await database.row(worker_id)
            return (row["state"], row["terminating"]) == ("interrupted", True)

        await eventually(marked)
        session.send("drained")
        assert json.loads((await asking)[1])["drained"]


async def test_rows_that_another_pod_of_this_name_may_have_made_are_left_alone(pod: Pod, database: Observer) -> None:
    (other,) = await database.fetch(
        "INSERT INTO pgqrs_workers (name, pod_uid, pod_name, pod_namespace) "
        "VALUES ('web-1.bank:1', 'x', 'web-1', 'bank') RETURNING id"
    )
    sidecar = await pod.sidecar()
    doubtful = [await _insert(database, name) for name in ("web-1", "web-1:1", f"web-1-{uuid.uuid4()}")]
    certain = await _insert(database, f"{HOSTNAME}:7")
    await _adopted(database, certain)
    await _beaten(database, certain)
    assert [(await database.row(one))["pod_uid"] for one in doubtful] == [None] * 3
    about = [line["worker_ids"] for line in sidecar.lines if line["message"].startswith("rows are left alone")]
    assert about[-1] == doubtful
    assert len(about) == len({tuple(ids) for ids in about}), "said again and again"

    # As soon as nobody else can have made them they are known.
    await database.fetch("UPDATE pgqrs_workers SET status = 'stopped' WHERE id = $1", other["id"])
    for one in doubtful:
        await _adopted(database, one)


async def test_a_name_without_the_cluster_may_be_another_cluster_s(pod: Pod, database: Observer) -> None:
    pod.env |= {"PGQRS_CLUSTER": "west", "PGQRS_HOSTNAME": f"{HOSTNAME}.west"}
    other = (
        "INSERT INTO pgqrs_workers (name, pod_uid, pod_name, pod_namespace, cluster) VALUES ($1, $1, 'web-1', $2, $3)"
    )
    await database.fetch(other, "a", "bank", "west")
    await pod.sidecar()
    await _adopted(database, await _insert(database, HOSTNAME))
    await database.fetch(other, "b", "shop", "east")
    doubtful = await _insert(database, HOSTNAME)
    await _adopted(database, await _insert(database, f"{HOSTNAME}.west"))
    assert (await database.row(doubtful))["pod_uid"] is None


async def test_what_is_not_the_pod_s_is_left_alone(pod: Pod, database: Observer) -> None:
    old = [await _insert(database, name) for name in ("web-1:5", f"web-1-{uuid.uuid4()}")]
    await pod.sidecar()
    names = [
        "web-10:1", "web-1-2:1", f"web-1-2-{uuid.uuid4()}", "web-1-cafe", f"web-1-{uuid.uuid1()}", f"{HOSTNAME}.east:1",
        f"WEB-1-{uuid.uuid4()}", "__ephemeral__" + str(uuid.uuid4()),
    ]  # fmt: skip
    strangers = [await _insert(database, name) for name in names]
    stopped = await _insert(database, "web-1:6")
    await database.fetch("UPDATE pgqrs_workers SET status = 'stopped' WHERE id = $1", stopped)
    await _adopted(database, await _insert(database, "web-1:7"))
    assert {(await database.row(one))["pod_uid"] for one in [*old, *strangers, stopped]} == {None}


async def test_who_comes_back_under_a_stopped_worker_s_name_is_found_by_its_time(pod: Pod, database: Observer) -> None:
    """Upstream's client takes such a row again, with its id, which is older than the pod."""
    worker_id = await _insert(database, "web-1")
    await database.fetch("UPDATE pgqrs_workers SET status = 'stopped' WHERE id = $1", worker_id)
    await pod.sidecar()
    await database.fetch(
        "UPDATE pgqrs_workers SET status = 'ready', started_at = now(), heartbeat_at = now() WHERE id = $1", worker_id
    )
    await _adopted(database, worker_id)


async def test_an_app_that_crashed_registers_again_under_its_name(pod: Pod, database: Observer) -> None:
    """Upstream's client refuses a name whose holder lives, and the sidecar does not see that this one is dead."""
    await pod.sidecar()
    first = await _insert(database, "web-1:1")
    await _adopted(database, first)
    second = await _insert(database, "web-1:1")
    await _adopted(database, second)
    row = await database.row(second)
    assert (row["name"], row["hostname"], row["port"]) == (f"web-1:1#{second}", "web-1", 1)


async def test_what_was_registered_before_the_containers_were_started_is_stopped_on_demand(
    pod: Pod, database: Observer, dsn: str
) -> None:
    """Only who sees the containers knows that these processes are dead; the sidecar's own rows have its own eyes."""
    await pod.sidecar()
    dead = await _insert(database, "web-1:1")
    await _adopted(database, dead)
    message = await database.lease(dead)
    alive = await _insert(database, "web-1:1")
    await _adopted(database, alive)
    since = (await database.row(alive))["started_at"]
    async with Database(dsn) as db:
        stopped = await pods.stop_adopted(db, POD_UID, before=since, reason="container app: OOMKilled (137)")
        assert stopped == {dead: 1}
        assert await pods.stop_adopted(db, POD_UID, before=since, reason="again") == {}
    assert (await database.row(dead))["stop_reason"] == "container app: OOMKilled (137)"
    assert (await database.message(message))["consumer_worker_id"] is None
    assert sorted(row["adopted"] for row in await database.rows()) == [False, True]


async def test_a_sidecar_that_was_restarted_goes_on_with_the_rows(pod: Pod, database: Observer) -> None:
    """Their processes open no session, so it must not wait for one and then take them for dead."""
    sidecar = await pod.sidecar()
    worker_id = await _insert(database, f"{HOSTNAME}:7")
    await _adopted(database, worker_id)
    sidecar.signal(signal.SIGKILL)
    await sidecar.ended()
    again = await pod.sidecar(PGQRS_REJOIN_SECONDS="0.3")
    # The pod's spare row was from before the restart, and nobody came back to it.
    await again.line(message="worker stopped")
    await _beaten(database, worker_id)
    assert await database.state(worker_id) == "ready"


async def test_a_database_that_does_not_allow_it_costs_no_heartbeat(pod: Pod, database: Observer) -> None:
    # The rights are those of an installation before this sidecar.
    await database.fetch("ALTER TABLE pgqrs_workers RENAME COLUMN adopted TO something")
    try:
        sidecar = await pod.sidecar()
        await sidecar.line(message="rows of unmodified apps cannot be looked after")
        (row,) = await database.rows()
        await _beaten(database, row["id"])
        assert sidecar.count(message="rows of unmodified apps cannot be looked after") == 1
        assert json.loads((await pod.get("/drain", token=TOKEN))[1])["drained"]
    finally:
        await database.fetch("ALTER TABLE pgqrs_workers RENAME COLUMN something TO adopted")
