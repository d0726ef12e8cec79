"""Apps that know nothing of Kubernetes, such as upstream's client: the sidecar finds and looks after their rows."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sidecar.processes import HOSTNAME, POD_UID, QUEUE, TOKEN, Pod, Process, eventually
from tests.sidecar.unmodified import adopted, beaten, insert
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


async def _rename(database: Observer, worker_id: int, name: str) -> None:
    """Give a row the name that its process would have asked for.

    What takes a name in upstream's Python hangs at times, and after the registration a process knows its row by the id.
    """
    await database.fetch("UPDATE pgqrs_workers SET name = $2 WHERE id = $1", worker_id, name)


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
    await beaten(database, worker_id)
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
    await adopted(database, worker_id)
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
    worker_id = await insert(database, "web-1:1")
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
        worker_id = await insert(database, "web-1:1")
        await adopted(database, worker_id)

        async def marked() -> bool:
            row = await database.row(worker_id)
            return (row["state"], row["terminating"]) == ("interrupted", True)

        await eventually(marked)
        session.send("drained")
        assert json.loads((await asking)[1])["drained"]


async def test_a_sidecar_that_was_restarted_goes_on_with_the_rows(pod: Pod, database: Observer) -> None:
    """Their processes open no session, so it must not wait for one and then take them for dead."""
    sidecar = await pod.sidecar()
    worker_id = await insert(database, f"{HOSTNAME}:7")
    await adopted(database, worker_id)
    sidecar.signal(signal.SIGKILL)
    await sidecar.ended()
    again = await pod.sidecar(PGQRS_REJOIN_SECONDS="0.3")
    # The pod's spare row was from before the restart, and nobody came back to it.
    await again.line(message="worker stopped")
    await beaten(database, worker_id)
    assert await database.state(worker_id) == "ready"


async def test_a_database_that_does_not_allow_it_costs_no_heartbeat(pod: Pod, database: Observer) -> None:
    # The rights are those of an installation before this sidecar.
    await database.fetch("ALTER TABLE pgqrs_workers RENAME COLUMN adopted TO something")
    try:
        sidecar = await pod.sidecar()
        await sidecar.line(message="rows of unmodified apps cannot be looked after")
        (row,) = await database.rows()
        await beaten(database, row["id"])
        assert sidecar.count(message="rows of unmodified apps cannot be looked after") == 1
        assert json.loads((await pod.get("/drain", token=TOKEN))[1])["drained"]
    finally:
        await database.fetch("ALTER TABLE pgqrs_workers RENAME COLUMN something TO adopted")
