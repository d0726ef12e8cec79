"""The page about the session protocol is true: what it shows is said by a program that knows nothing but the page."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pgqrs
from pgqrs import protocol
from pgqrs_sidecar import handshake
from pgqrs_sidecar.settings import Settings, Times
from tests.sidecar.processes import QUEUE, TOKEN, Pod, eventually

if TYPE_CHECKING:
    from tests.sidecar.conftest import Observer

_PAGE = Path(__file__).parents[2] / "docs" / "session-protocol.md"
#: What stands before the lines of the app in the example.
_APP = "→"


def _example() -> list[tuple[str, dict[str, Any]]]:
    """Who says what in the page's example."""
    block = _PAGE.read_text("utf-8").split("```session\n")[1].split("```")[0]
    return [(line[0], json.loads(line[1:].replace('"TOKEN"', json.dumps(TOKEN)))) for line in block.splitlines()]


def _first_cells(heading: str) -> set[str]:
    """The first cells of the tables below a heading, without those of the heads."""
    section = _PAGE.read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return {line.split("|")[1].strip(" `") for line in section.splitlines() if line.startswith("| `")} - {"code"}


async def test_the_example_is_what_is_really_said(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pgqrs.Admin(pod.dsn) as admin:
        await _say_the_example(pod, admin, database)


async def _say_the_example(pod: Pod, admin: pgqrs.Admin, database: Observer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.session_port)
    worker_id = 0
    drained: asyncio.Task[tuple[int, str]] | None = None
    for who, said in _example():
        if who == _APP:
            if said["type"] == "hello":
                assert said["queue"] == QUEUE
            writer.write(json.dumps(said).encode() + b"\n")
            continue
        # Somebody outside makes happen what the sidecar tells of.
        if said["type"] == "state":
            handle = pgqrs.WorkerHandle(admin, worker_id)
            await (handle.suspend() if said["state"] == "suspended" else handle.resume())
        if said["type"] == "drain":
            drained = asyncio.create_task(pod.get("/drain", token=TOKEN))
        heard = await _next(reader, writer, said["type"])
        assert set(heard) == set(said)
        if said["type"] == "welcome":
            worker_id = heard["worker_id"]
            assert heard["state"] == said["state"]
        if said["type"] == "state":
            assert heard == said
    async with asyncio.timeout(10):
        # What comes after the goodbye's answer is the end.
        assert await reader.read() == b""
    writer.close()
    assert drained is not None
    assert (await drained)[0] == 200
    (row,) = await database.fetch("SELECT status::text AS state FROM pgqrs_workers WHERE id = $1", worker_id)
    assert row["state"] == "stopped"


async def _next(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wanted: str) -> dict[str, Any]:
    """The next message of this type; pings that come in between are answered."""
    async with asyncio.timeout(10):
        while True:
            message: dict[str, Any] = json.loads(await reader.readline())
            if message["type"] == wanted:
                return message
            if message["type"] == "ping":
                writer.write(json.dumps({"type": "pong", "n": message["n"]}).encode() + b"\n")


def test_the_tables_name_all_messages_and_codes() -> None:
    assert _first_cells("What the app says") == {
        protocol.HELLO, protocol.PONG, protocol.DRAINED, protocol.GOODBYE
    }  # fmt: skip
    kinds = {protocol.WELCOME, protocol.PING, protocol.STATE, protocol.DRAIN, protocol.BYE, protocol.ERROR}
    codes = {
        protocol.FORBIDDEN, protocol.BAD_PROTOCOL, protocol.UNKNOWN_QUEUE, protocol.DRAINING, protocol.UNAVAILABLE,
        protocol.REPLACED,
    }  # fmt: skip
    assert _first_cells("What the sidecar says") == kinds | codes


async def test_a_child_that_is_forked_does_not_hide_the_death_of_its_parent(pod: Pod, database: Observer) -> None:
    """`multiprocessing` forks by default; the child lives on when the parent is killed."""
    await pod.sidecar()
    app = await pod.app(APP_FORKS="1")
    started = await app.line(event="started")
    child = (await app.line(event="forked"))["pid"]
    app.signal(signal.SIGKILL)

    async def stopped() -> bool:
        query = "SELECT status::text AS state, stop_reason FROM pgqrs_workers WHERE id = $1"
        (row,) = await database.fetch(query, started["worker_id"])
        return bool(row["state"] == "stopped" and row["stop_reason"] == "process died")

    try:
        await eventually(stopped)
        # Raises where the child has ended too, so that this would show nothing.
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_numbers_are_those_of_the_code() -> None:
    text = " ".join(_PAGE.read_text("utf-8").split())
    times = Times()
    most = Settings.from_env(Pod("postgresql://db/app").environment).max_sessions
    for said in (
        f"at most {protocol.MAX_LINE:,} bytes",
        f"within {times.hello:g} s of connecting",
        f"May take up to {handshake.WELCOME_SECONDS:g} s",
        f"one comes every {times.ping:g} s",
        f"After {times.pong:g} s without an answer",
        f"has its {most} sessions",
        f"waits {times.rejoin:g} s for the processes",
    ):
        assert said in text
