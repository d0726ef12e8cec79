"""A pod that ends: finished work is not delivered twice, unfinished work is free when its process is gone."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

import aiohttp

from tests.sidecar.processes import TOKEN, Pod, eventually

if TYPE_CHECKING:
    import pgqrs
    from tests.sidecar.conftest import Observer


async def test_a_drain_waits_for_the_handler_and_nothing_is_delivered_twice(
    pod: Pod, database: Observer, producer: pgqrs.Producer
) -> None:
    sidecar = await pod.sidecar()
    app = await pod.app(handler_seconds=1.5)
    first = await producer.enqueue({"n": 1})
    await app.line(event="leased", id=first)
    second = await producer.enqueue({"n": 2})

    # Both hooks of the pod ask at once and get the same answer.
    (status, text), again = await asyncio.gather(*(pod.get("/drain", token=TOKEN) for _ in range(2)))
    assert status == 200
    assert again == (status, text)
    result = json.loads(text)
    assert (result["drained"], result["leased"], result["busy"]) == (True, 0, 0)

    await app.line(event="archived", id=first, archived=True)
    await app.line(event="drained")
    assert app.count(event="leased") == 1
    assert (await database.message(first))["read_ct"] == 1
    assert (await database.message(second))["read_ct"] == 0
    (row,) = await database.rows()
    assert (row["state"], row["terminating"]) == ("suspended", True)

    # The kubelet goes on: SIGTERM to the app, which ignores it, SIGKILL, and only then SIGTERM to the sidecar.
    app.signal(signal.SIGTERM)
    app.signal(signal.SIGKILL)
    await app.ended()
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended(within=2.0) == 0
    assert await database.rows() == []
    assert (await database.message(first))["read_ct"] == 1


async def test_a_run_ends_with_its_pod(pod: Pod, database: Observer, producer: pgqrs.Producer) -> None:
    await pod.sidecar()
    app = await pod.app(handler_seconds=1.5, APP_LOOP="run")
    first = await producer.enqueue({"n": 1})
    await app.line(event="leased", id=first)
    others = await producer.enqueue_batch([{"n": number} for number in range(2, 20)])

    status, text = await pod.get("/drain", token=TOKEN)
    assert status == 200
    assert json.loads(text)["drained"]
    await app.line(event="handled", id=first)
    await app.line(event="drained")
    assert app.count(event="leased") == 1
    assert (await database.message(first))["archived_at"] is not None
    assert {(await database.message(other))["read_ct"] for other in others} == {0}


async def test_a_process_that_comes_during_a_drain_is_refused(pod: Pod) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        await session.welcome()
        asking = asyncio.create_task(pod.get("/drain", token=TOKEN))
        drain = await session.next()
        assert drain is not None
        assert drain["type"] == "drain"
        assert 14 < drain["seconds"] <= 15

        async with pod.session(pid=8) as late:
            refusal = await late.next()
            assert refusal is not None
            assert (refusal["type"], refusal["code"]) == ("error", "draining")

        session.send("drained")
        assert json.loads((await asking)[1])["drained"]
        assert {"type": "state", "state": "suspended"} in [await session.next() for _ in range(2)]


async def test_a_process_that_dies_during_a_drain_frees_its_messages_and_gets_no_successor(
    pod: Pod, database: Observer
) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        asking = asyncio.create_task(pod.get("/drain", token=TOKEN))
        drain = await session.next()
        assert drain is not None
        assert drain["type"] == "drain"
    assert json.loads((await asking)[1])["drained"]
    assert (await database.message(message))["consumer_worker_id"] is None
    assert await database.rows() == []


async def test_a_drain_believes_the_database_more_than_the_process(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        asking = asyncio.create_task(pod.get("/drain", token=TOKEN))
        await session.next()
        session.send("drained")

        async def heard() -> bool:
            return bool((await pod.state())["workers"][0]["drained"])

        await eventually(heard)
        assert not (await pod.state())["drained"]
        await database.fetch("UPDATE pgqrs_messages SET archived_at = now() WHERE id = $1", message)
        assert json.loads((await asking)[1])["drained"]


async def test_what_a_process_said_of_a_pause_says_nothing_of_the_drain(pod: Pod, database: Observer) -> None:
    await pod.sidecar(PGQRS_DRAIN_SECONDS="0.5")
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]

        async def becomes(state: str) -> None:
            await database.fetch(
                "UPDATE pgqrs_workers SET status = $2::text::worker_status WHERE id = $1", worker_id, state
            )
            assert await session.next() == {"type": "state", "state": state}

        async def heard() -> bool:
            return bool((await pod.state())["workers"][0]["drained"])

        await becomes("suspended")
        session.send("drained")
        await eventually(heard)
        await becomes("ready")
        result = json.loads((await pod.get("/drain", token=TOKEN))[1])
        assert (result["drained"], result["busy"]) == (False, 1)


async def test_when_the_drain_time_is_up_the_message_stays_until_the_pod_ends(pod: Pod, database: Observer) -> None:
    sidecar = await pod.sidecar(PGQRS_DRAIN_SECONDS="0.5")
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        status, text = await pod.get("/drain", token=TOKEN)
        result = json.loads(text)
        assert (status, result["drained"], result["leased"], result["busy"]) == (200, False, 1, 1)
        assert await database.state(worker_id) == "interrupted"
        assert (await database.message(message))["consumer_worker_id"] == worker_id

        sidecar.signal(signal.SIGTERM)
        assert await sidecar.ended(within=2.0) == 0
        assert (await database.message(message))["consumer_worker_id"] is None
        assert (await database.row(worker_id))["stop_reason"] == "pod ended"


async def test_sigterm_without_a_hook_tells_the_processes_and_stops_the_rows(pod: Pod, database: Observer) -> None:
    sidecar = await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        message = await database.lease(worker_id)
        sidecar.signal(signal.SIGTERM)
        drain = await session.next()
        assert drain is not None
        assert drain["type"] == "drain"
        assert drain["seconds"] <= 1.5
        heard = []
        while (told := await session.next()) is not None:
            heard.append(told)
        assert heard[-1] == {"type": "state", "state": "stopped"}
        assert await sidecar.ended(within=2.0) == 0
    assert (await database.message(message))["consumer_worker_id"] is None
    assert await database.rows() == []


async def test_sigterm_of_an_idle_pod_stops_its_row_at_once(pod: Pod, database: Observer) -> None:
    sidecar = await pod.sidecar()
    (row,) = await database.rows()
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.ended(within=1.5) == 0
    assert (await database.row(row["id"]))["stop_reason"] == "pod ended"


async def test_a_drain_asks_for_the_token(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    for token in (None, "", "wrong"):
        assert (await pod.get("/drain", token=token))[0] == 403
    for header in ("", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer  {TOKEN}"):
        assert await _with_header(pod, "/drain", header) == 403
    assert not (await pod.state())["draining"]
    assert (await database.rows())[0]["state"] == "ready"


async def test_the_token_may_come_as_a_header(pod: Pod) -> None:
    await pod.sidecar()
    assert await _with_header(pod, "/state", f"Bearer {TOKEN}") == 200
    assert await _with_header(pod, "/state", "Bearer wrong") == 403
    # A right one is right wherever it stands.
    assert await _with_header(pod, "/state?token=wrong", f"bearer {TOKEN}") == 200
    assert await _with_header(pod, f"/state?token={TOKEN}", "Bearer wrong") == 200
    assert await _with_header(pod, "/drain", f"Bearer {TOKEN}") == 200
    assert (await pod.state())["drained"]


async def _with_header(pod: Pod, path: str, header: str) -> int:
    url = f"http://127.0.0.1:{pod.http_port}{path}"
    async with aiohttp.ClientSession() as client, client.get(url, headers={"Authorization": header}) as answer:
        return answer.status
