"""Who gets a session, and what becomes of those who don't keep to the protocol."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import pgqrs
from pgqrs import protocol
from pgqrs.database import Database
from pgqrs_sidecar.handshake import Hello, Reception, RefusedError
from pgqrs_sidecar.outage import Outage
from pgqrs_sidecar.rows import PodRows
from pgqrs_sidecar.settings import Settings
from pgqrs_sidecar.tasks import Tasks
from tests.sidecar.processes import QUEUE, TOKEN, Pod, eventually

if TYPE_CHECKING:
    from tests.sidecar.conftest import Observer


async def _refusal(pod: Pod, **hello: Any) -> str:
    async with pod.session(**hello) as session:
        message = await session.next()
        assert message is not None
        assert message["type"] == "error"
        assert TOKEN not in message["message"]
        assert await session.next() is None
        return str(message["code"])


@pytest.mark.parametrize("token", ["wrong", "", None, 7, TOKEN + "x", "\ud800"])
async def test_a_wrong_token_is_refused(pod: Pod, database: Observer, token: object) -> None:
    await pod.sidecar()
    assert await _refusal(pod, token=token) == "forbidden"
    # Even an otherwise hopeless hello learns nothing else.
    assert await _refusal(pod, token=token, protocol=99, queue="nonsense") == "forbidden"
    (row,) = await database.rows()
    assert row["container"] is None


@pytest.mark.parametrize(
    "hello",
    [
        {"protocol": 2},
        {"protocol": None},
        {"queue": None},
        {"container": ""},
        {"container": "x" * 254},
        {"container": 3},
        {"pid": "7"},
        {"pid": True},
        {"worker_id": "7"},
    ],
)
async def test_a_malformed_hello_is_refused(pod: Pod, hello: dict[str, Any]) -> None:
    await pod.sidecar()
    assert await _refusal(pod, **hello) == "protocol"


async def test_a_queue_that_cannot_exist_is_unknown(pod: Pod) -> None:
    await pod.sidecar()
    assert await _refusal(pod, queue="a\x00b") == "unknown_queue"


@pytest.mark.parametrize(
    "line",
    [b"GET / HTTP/1.1\r\n", b"[]\n", b'{"type":7}\n', b"\xff\n", b"x" * 70_000 + b"\n", b"[" * 60_000 + b"\n"],
    ids=["http", "no object", "no text", "no utf-8", "long", "deep"],
)
async def test_what_is_no_session_is_refused(pod: Pod, line: bytes) -> None:
    await pod.sidecar()
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.session_port)
    try:
        writer.write(line)
        answer = protocol.decode(await reader.readline())
        assert (answer["type"], answer["code"]) == ("error", "protocol")
    finally:
        writer.close()


@pytest.mark.parametrize("welcome", [{}, {"worker_id": None, "name": "a:1"}, {"worker_id": "x", "name": "a:1"}])
async def test_a_welcome_that_names_no_worker_is_an_error(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, welcome: dict[str, Any]
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(protocol.encode("welcome", **welcome))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", pod.session_port)
    try:
        for name, value in {**pod.environment, "PGQRS_SIDECAR": f"127.0.0.1:{pod.session_port}"}.items():
            monkeypatch.setenv(name, value)
        consumer = pgqrs.Consumer()
        with pytest.raises(pgqrs.SessionError, match="names no worker"):
            await consumer.start()
        await consumer.aclose()
    finally:
        server.close()


async def test_a_connection_that_says_nothing_is_closed(pod: Pod) -> None:
    await pod.sidecar(PGQRS_HELLO_SECONDS="0.2")
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.session_port)
    try:
        answer = protocol.decode(await reader.readline())
        assert answer["code"] == "protocol"
        assert await reader.read() == b""
    finally:
        writer.close()


async def test_more_sessions_than_allowed_are_refused_until_one_ends(pod: Pod) -> None:
    await pod.sidecar(PGQRS_MAX_SESSIONS="1")
    async with pod.session() as session:
        await session.welcome()
        assert await _refusal(pod) == "unavailable"

    async def welcome() -> bool:
        async with pod.session() as session:
            message = await session.next()
            return message is not None and message["type"] == "welcome"

    await eventually(welcome)


async def test_a_session_that_breaks_the_protocol_loses_its_row(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        session.write(b"this is not JSON\n")
        message = await session.next()
        assert message is not None
        assert (message["type"], message["code"]) == ("error", "protocol")

    async def stopped() -> bool:
        return await database.state(worker_id) == "stopped"

    await eventually(stopped)


async def test_unknown_messages_are_passed_over(pod: Pod) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        await session.welcome()
        session.send("mood", value="good")
        session.send("goodbye")
        assert await session.next() == {"type": "bye"}


async def test_a_second_connection_of_the_same_process_takes_its_row_over(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session(pid=7) as first:
        worker_id = (await first.welcome())["worker_id"]
        async with pod.session(pid=7, worker_id=worker_id) as second:
            assert (await second.welcome())["worker_id"] == worker_id
            assert await first.next() is None
            assert await database.state(worker_id) == "ready"
            second.send("goodbye")
            assert await second.next() == {"type": "bye"}
    assert await database.state(worker_id) == "stopped"


async def test_another_process_cannot_take_a_row_that_is_held(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session(pid=7) as first:
        worker_id = (await first.welcome())["worker_id"]
        assert await _refusal(pod, pid=8, worker_id=worker_id) == "replaced"
        assert await _refusal(pod, pid=7, container="other", worker_id=worker_id) == "replaced"
        assert await database.state(worker_id) == "ready"


async def test_a_row_that_is_stopped_or_foreign_cannot_be_taken_up(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        worker_id = (await session.welcome())["worker_id"]
        session.send("goodbye")
        assert await session.next() == {"type": "bye"}
    assert await _refusal(pod, worker_id=worker_id) == "replaced"
    assert await _refusal(pod, worker_id=2**70) == "replaced"
    (foreign,) = await database.fetch(
        "INSERT INTO pgqrs_workers (name, queue_id, pod_uid) "
        "SELECT 'other:1', id, 'other' FROM pgqrs_queues RETURNING id"
    )
    assert await _refusal(pod, worker_id=foreign["id"]) == "replaced"


async def test_a_goodbye_that_is_cut_short_leaves_no_task_and_no_row(
    pod: Pod, database: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = await pod.sidecar()
    for name, value in {**pod.environment, "PGQRS_SIDECAR": f"127.0.0.1:{pod.session_port}"}.items():
        monkeypatch.setenv(name, value)
    async with pgqrs.Admin() as admin:
        before = asyncio.all_tasks()
        consumer = pgqrs.Consumer(admin)
        worker_id = await consumer.start()
        assert (await database.row(worker_id))["container"] is None
        sidecar.signal(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await consumer.aclose()

            async def nothing_runs() -> bool:
                return asyncio.all_tasks() <= before

            await eventually(nothing_runs)
        finally:
            sidecar.signal(signal.SIGCONT)

        async def stopped() -> bool:
            return await database.state(worker_id) == "stopped"

        await eventually(stopped)
        await consumer.aclose()


async def test_a_row_that_comes_after_its_process_was_refused_is_given_back(
    dsn: str, database: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqrs_sidecar.handshake.WELCOME_SECONDS", 0.5)
    tasks = Tasks()
    blocker = await asyncpg.connect(dsn)
    try:
        async with Database(dsn, max_connections=2) as opened:
            rows = PodRows(opened, Settings.from_env(Pod(dsn).environment), Outage())
            reception = Reception(rows, tasks)
            hello = Hello(queue=QUEUE, container="app", pid=7, worker_id=None)
            await rows.recover()
            tasks.eternal("rows", rows.run())
            first = await reception.row_for(hello)

            async with blocker.transaction():
                # Registrations wait for this.
                await blocker.execute("LOCK TABLE pgqrs_workers IN SHARE MODE")
                with pytest.raises(RefusedError) as refused:
                    await reception.row_for(hello)
                assert refused.value.code == protocol.UNAVAILABLE

            async def given_back() -> bool:
                late = [row for row in await database.rows(live=False) if row["id"] != first.id]
                return [row["state"] for row in late] == ["stopped"]

            await eventually(given_back)
            assert [row["id"] for row in await database.rows()] == [first.id]
            await tasks.aclose(timeout=1.0)
    finally:
        await blocker.close()
