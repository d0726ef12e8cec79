"""The page that the system was first described by (`reference/workers-page.md`): its code runs as written.

Every Python block is taken out of the page (`tests.support.markdown` says how its broken fences are read) and executed
in a namespace of its own against a real database. From outside come only what a block uses without defining it
(`admin`, `process_message`, ...), the database behind the page's DSN, and a shorter `asyncio.sleep`. A loop without an
end is cancelled once what it is there for has happened.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import pgqrs
from pgqrs import lifecycle
from tests.support.reader import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.markdown import Block

_PAGE = Path(__file__).parents[2].parent / "shared" / "reference" / "workers-page.md"
_MISSING = f"The page to run is not at {_PAGE}; a copy of shared/ belongs beside the checkout."
_DEADLINE = 20.0

pytestmark = pytest.mark.filterwarnings("ignore:.*utcnow.*:DeprecationWarning")  # the page compares with it


def page_blocks(language: str) -> dict[str, Block]:
    """The blocks of one language by heading and position under it, such as `Suspend 2`."""
    assert _PAGE.is_file(), _MISSING
    return Reader.blocks_of(_PAGE, language)


class Switch:
    """Something that is true until it is turned off, as a loop's condition."""

    def __init__(self) -> None:
        self.on = True

    def __bool__(self) -> bool:
        return self.on


@pytest.fixture
async def reader(dsn: str, admin: pgqrs.Admin) -> AsyncIterator[Reader]:
    await admin.create_queue("tasks")
    assert _PAGE.is_file(), _MISSING
    found = Reader(_PAGE, dsn, admin)
    yield found
    await found.aclose()


@pytest.fixture
def _signals() -> Iterator[None]:
    """Puts back what the page does to the signals of this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def _archived(reader: Reader) -> int:
    return (await reader.admin.queue_counts("tasks")).archived


async def _send(admin: pgqrs.Admin, *payloads: Any) -> None:
    async with pgqrs.Producer(admin, "tasks", "sender") as producer:
        await producer.enqueue_batch(payloads)


async def _statement(dsn: str, text: str, *args: Any) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(text, *args)
    finally:
        await connection.close()


async def _let_age(dsn: str, worker_id: int, column: str, age: timedelta) -> None:
    await _statement(dsn, f"UPDATE pgqrs_workers SET {column} = now() - $2::interval WHERE id = $1", worker_id, age)


async def _fresh_and_silent(reader: Reader) -> tuple[int, int]:
    """Two rows that no process keeps alive, one of them silent for more than the 5 minutes of the page."""
    fresh = await lifecycle.register(reader.admin.database, "tasks", hostname="fresh", port=1)
    silent = await lifecycle.register(reader.admin.database, "tasks", hostname="silent", port=1)
    await _let_age(reader.dsn, silent.id, "heartbeat_at", timedelta(minutes=6))
    return fresh.id, silent.id


async def _stopped_since(admin: pgqrs.Admin, dsn: str, host: str, age: timedelta) -> int:
    async with pgqrs.Consumer(admin, "tasks", host, 1) as consumer:
        worker_id = await consumer.start()
    await _let_age(dsn, worker_id, "shutdown_at", age)
    return worker_id


def test_every_block_of_the_page_is_read() -> None:
    # A test stands below for each of them.
    assert list(page_blocks("python")) == [
        "Worker Registration 1",
        "Suspend 1",
        "Suspend 2",  # no opening fence
        "Suspend 3",  # no opening fence
        "Suspend 4",  # begins in the line of the closing fence before it, ends at a fence that prose follows
        "Resume 1",
        "Shutdown 1",
        "Worker Trait 1",
        "WorkerHandle 1",
        "Heartbeats 1",
        "Health Checks 1",
        "Automatic Heartbeats 1",
        "Multiple Workers 1",
        "Worker Information 1",
        "1. Use Meaningful Identifiers 1",
        "2. Graceful Shutdown 1",
        "3. Monitor Worker Health 1",
        "4. Clean Up Stopped Workers 1",
    ]


async def test_worker_registration(reader: Reader) -> None:
    names = await reader.run("Worker Registration 1")
    await names["producer"].enqueue("x")
    (row,) = await (await reader.admin.get_workers()).filter_by_queue("tasks")
    assert (row.hostname, row.port, row.status) == ("web-server-1", 3000, "ready")
    assert row.id == names["producer"].worker_id


async def test_suspend_lists_workers_with_state_and_last_sign_of_life(
    reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    async with pgqrs.Consumer(reader.admin, "tasks", "worker1", 8080) as consumer:
        await consumer.suspend()
        await reader.run("Suspend 1")
        (info,) = await (await reader.admin.get_workers()).list()
        assert capsys.readouterr().out.splitlines() == [
            f"Worker {consumer.worker_id}: worker1:8080",
            "Status: suspended",
            f"Last seen: {info.updated_at}",
        ]


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("title", ["Suspend 2", "Shutdown 1"])
async def test_graceful_worker_finishes_and_stops(
    reader: Reader, capsys: pytest.CaptureFixture[str], title: str
) -> None:
    await _send(reader.admin, "a", "b")
    names = await reader.run(title)
    worker = names["worker"]
    assert signal.getsignal(signal.SIGTERM) == worker.shutdown
    await worker.setup(reader.admin, "tasks")
    names["consumer"] = worker.consumer  # to be closed with the rest

    async def stop_when_done() -> None:
        while await _archived(reader) < 2:
            await asyncio.sleep(0.02)
        # The page's handler is a coroutine function, which signal.signal() would only call and never await.
        await worker.shutdown(signal.SIGTERM, None)

    async with asyncio.timeout(_DEADLINE):
        await asyncio.gather(worker.process_messages(), stop_when_done())
    assert [message.payload for message in reader.handled] == ["a", "b"]
    assert capsys.readouterr().out == "Received SIGTERM, shutting down gracefully...\n"


@pytest.mark.parametrize("title", ["Suspend 3", "Resume 1"])
async def test_a_dequeue_loop_processes_and_archives(reader: Reader, title: str) -> None:
    await _send(reader.admin, "a", "b")

    async def both() -> bool:
        return await _archived(reader) == 2

    await reader.until(reader.run(title), both)
    assert [message.payload for message in reader.handled] == ["a", "b"]


async def test_a_dequeue_loop_ends_by_its_own_condition(reader: Reader) -> None:
    await _send(reader.admin, "a")
    processing = Switch()

    async def stop_when_done() -> None:
        while await _archived(reader) < 1:
            await asyncio.sleep(0.02)
        processing.on = False

    async with asyncio.timeout(_DEADLINE):
        await asyncio.gather(reader.run("Suspend 4", processing=processing), stop_when_done())


async def test_worker_trait_creates_workers_by_themselves(reader: Reader) -> None:
    names = await reader.run("Worker Trait 1", hostname="worker1", port=8080)
    producer, consumer = names["producer"], names["consumer"]
    await producer.enqueue("x")
    # The page gives both one identity. Two that are alive cannot share it; the error says so, and what to do.
    with pytest.raises(pgqrs.WorkerAlreadyActiveError, match="choose another port"):
        await consumer.dequeue()
    await producer.aclose()
    assert [message.payload for message in await consumer.dequeue()] == ["x"]
    assert await consumer.status() == "ready"


async def test_worker_handle_lists_workers(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    async with pgqrs.Producer(reader.admin, "tasks", "web-server-1", 3000) as producer:
        names = await reader.run("WorkerHandle 1")
        assert capsys.readouterr().out.splitlines() == [
            f"Worker {producer.worker_id}: web-server-1:3000",
            "Status: ready",
        ]
        # The page says that Python has no such handle; ours does.
        handle = pgqrs.WorkerHandle(reader.admin, await names["consumer"].start())
        await handle.suspend()
        assert await names["consumer"].status() == "suspended"


async def test_heartbeats_are_shown(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    async with pgqrs.Consumer(reader.dsn, "tasks", "worker1", 8080):
        names = await reader.run("Heartbeats 1")
        (info,) = names["worker_list"]
        assert capsys.readouterr().out == f"Worker worker1:8080 - Last seen: {info.updated_at}\n"


async def test_health_checks_compare_with_a_naive_time(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    fresh, silent = await _fresh_and_silent(reader)
    await reader.run("Health Checks 1")
    assert capsys.readouterr().out.splitlines() == [f"Worker {fresh}: healthy", f"Worker {silent}: stale"]


async def test_automatic_heartbeats_by_dequeue(reader: Reader) -> None:
    await _send(reader.admin, "a")
    names = await reader.run("Automatic Heartbeats 1")
    aged = asyncio.Event()

    async def heartbeat_is_fresh_again() -> bool:
        found = [w for w in await (await reader.admin.get_workers()).list() if w.name == "worker1:8080"]
        if await _archived(reader) == 1 and not aged.is_set():
            await _let_age(reader.dsn, found[0].id, "heartbeat_at", timedelta(minutes=10))
            aged.set()
            return False
        return aged.is_set() and await pgqrs.WorkerHandle(reader.admin, found[0].id).is_healthy(timedelta(minutes=1))

    async with asyncio.timeout(4):  # the background heartbeat comes after 5 s only, so this one was the dequeue's
        await reader.until(names["worker_with_health_tracking"](reader.admin, "tasks"), heartbeat_is_fresh_again)
    assert reader.handled == ["a"]


async def test_multiple_workers_share_a_queue(reader: Reader, tmp_path: Path) -> None:
    payloads = list(range(30))
    await _send(reader.admin, *payloads)
    program = tmp_path / "workers.py"
    program.write_text(page_blocks("python")["Multiple Workers 1"].code.replace(Reader.DSN, reader.dsn))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        program,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Whoever runs the tests in the background of a shell hands down that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    async def all_archived_and_all_registered() -> bool:
        found = await (await reader.admin.get_workers()).list()
        ports = {worker.port for worker in found if worker.hostname == "host"}
        return await _archived(reader) == len(payloads) and ports == {3001, 3002, 3003}

    output = asyncio.ensure_future(process.communicate())
    try:
        async with asyncio.timeout(_DEADLINE):
            while not await all_archived_and_all_registered():
                assert not output.done(), output.result()
                await asyncio.sleep(0.05)
            # The page's loop has no end of its own.
            process.send_signal(signal.SIGINT)
            out, said = await output
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, said.decode().splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    processed = [line.rpartition(" ")[2] for line in out.decode().splitlines()]
    assert len(processed) == len(set(processed)) == len(payloads), "each message went to one consumer"


async def test_worker_information_counts(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    async with pgqrs.Producer(reader.admin, "tasks"), pgqrs.Consumer(reader.admin, "tasks"):
        await reader.run("Worker Information 1")
    assert capsys.readouterr().out == "Total workers: 2\n"


async def test_meaningful_identifiers(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTNAME", "rack-7")
    names = await reader.run("1. Use Meaningful Identifiers 1", worker_number=4)
    worker = await (await reader.admin.get_workers()).get(await names["consumer"].start())
    assert (worker.hostname, worker.port) == ("rack-7", 3004)


@pytest.mark.usefixtures("_signals")
async def test_graceful_shutdown_on_sigterm(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    await _send(reader.admin, "a", "b")
    names = await reader.run("2. Graceful Shutdown 1")
    async with pgqrs.Consumer(reader.admin, "tasks", "worker1", 8080) as consumer:
        running = asyncio.ensure_future(names["run_with_graceful_shutdown"](consumer))
        try:
            async with asyncio.timeout(_DEADLINE):
                while await _archived(reader) < 2:
                    await asyncio.sleep(0.02)
                os.kill(os.getpid(), signal.SIGTERM)
                await running
        finally:
            running.cancel()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().remove_signal_handler(number)
    assert capsys.readouterr().out == "Shutting down...\nConsumer stopped\n"


async def test_health_is_monitored(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    await reader.admin.create_queue("other")
    names = await reader.run("3. Monitor Worker Health 1")
    fresh, silent = await _fresh_and_silent(reader)
    await lifecycle.register(reader.admin.database, "other", hostname="elsewhere")
    assert await names["monitor_worker_health"](reader.admin, "tasks") == (1, 1)
    out = capsys.readouterr().out
    assert f"✅ Worker {fresh} is healthy" in out
    assert f"Worker {silent} (silent:1) is stale" in out
    assert "Status: ready" in out
    assert "Health Summary: 1 healthy, 1 stale" in out

    rounds = ""

    async def twice() -> bool:
        nonlocal rounds
        rounds += capsys.readouterr().out
        return rounds.count("Health Summary: 1 healthy, 1 stale") >= 2

    await reader.until(names["health_monitor_loop"](reader.admin, "tasks"), twice)
    assert "failed" not in rounds


async def test_stopped_workers_are_cleaned_up(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    names = await reader.run("4. Clean Up Stopped Workers 1")
    await _send(reader.admin, "x")
    old = await _stopped_since(reader.admin, reader.dsn, "old", timedelta(days=8))
    recent = await _stopped_since(reader.admin, reader.dsn, "recent", timedelta(days=6))
    async with pgqrs.Consumer(reader.admin, "tasks", "alive", 1) as alive:
        assert await names["cleanup_stopped_workers"](reader.admin) == 1
        out = capsys.readouterr().out
        assert f"Cleaning up stopped worker {old} \n  Hostname: old:1\n" in out
        assert f"✅ Deleted worker {old}\n\nCleanup complete: 1 workers removed" in out
        left = {worker.id for worker in await (await reader.admin.get_workers()).list()}
        assert old not in left
        assert {recent, alive.worker_id} <= left

        await _let_age(reader.dsn, recent, "shutdown_at", timedelta(days=9))
        rounds = ""

        async def twice() -> bool:
            nonlocal rounds
            rounds += capsys.readouterr().out
            return rounds.count("Scheduled cleanup completed") >= 2

        await reader.until(names["scheduled_cleanup_task"](reader.admin), twice)
        assert "Scheduled cleanup completed: 1 workers removed" in rounds
        assert "failed" not in rounds.lower()
