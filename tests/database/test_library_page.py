"""`docs/library.md`: every block of it runs as written; only what a block uses without defining it is supplied."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import pgqrs
from pgqrs import errors
from tests.support.markdown import blocks
from tests.support.reader import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_PAGE = Path(__file__).parents[2] / "docs" / "library.md"
_BIN = Path(sys.executable).parent
_INSTALL = re.compile(r"^pip install '?(?P<name>[a-z-]+)(?:\[(?P<extra>[a-z]+)\])?'?$")


@pytest.fixture
async def reader(dsn: str, admin: pgqrs.Admin) -> AsyncIterator[Reader]:
    await admin.create_queue("emails")
    found = Reader(_PAGE, dsn, admin)
    yield found
    await found.aclose()


class Post:
    """A `send_email` that notes what it was given, and fails as often as it is told to."""

    def __init__(self, *, failures: int = 0) -> None:
        self.sent: list[Any] = []
        self._failures = failures

    async def __call__(self, payload: Any) -> None:
        if self._failures:
            self._failures -= 1
            raise ConnectionError
        self.sent.append(payload)


def test_every_block_has_a_test_below() -> None:
    per_language = {
        language: dict(Counter(block.heading for block in blocks(_PAGE, language))) for language in ("python", "sh", "")
    }
    assert per_language == {
        "python": {
            "The library": 1,
            "Send": 2,
            "Handle": 3,
            "Receive": 3,
            "Look after queues": 1,
            "In a pod": 1,
            "The life of a worker": 2,
            "Errors": 1,
            "Test your app": 2,
        },
        "sh": {"Install": 2, "Look after queues": 1, "The life of a worker": 1},
        "": {"Errors": 1},
    }


async def _program(source: str, *options: str) -> str:
    arguments = [sys.executable, *options, "-c", source]
    result = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


async def test_the_first_lines_work_on_an_empty_database(empty_dsn: str) -> None:
    source = Reader.blocks_of(_PAGE)["The library 1"].code
    assert len([line for line in source.splitlines() if line.strip()]) == 12
    out = await _program(source.replace(Reader.DSN, empty_dsn), "-W", "error")
    assert out == "{'to': 'ada@example.com'}\n"
    async with pgqrs.Admin(empty_dsn) as admin:
        counts = await admin.queue_counts("emails")
        assert (counts.ready, counts.leased, counts.archived) == (0, 0, 1)


def test_what_is_installed_is_this_distribution() -> None:
    block = next(block for block in blocks(_PAGE, "sh") if block.heading == "Install")
    extras = metadata.metadata("pgqrs-kubernetes").get_all("Provides-Extra") or []
    lines = [line.partition("#")[0].strip() for line in block.code.splitlines()]
    for line in lines:
        match = _INSTALL.fullmatch(line)
        assert match is not None, line
        assert match["name"] == "pgqrs-kubernetes"
        assert match["extra"] is None or match["extra"] in extras


def _shell(script: str, dsn: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        env={"PATH": f"{_BIN}:/usr/bin:/bin"} | ({"PGQRS_DSN": dsn} if dsn else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_tables_and_queues_are_made(empty_dsn: str) -> None:
    block = [block for block in blocks(_PAGE, "sh") if block.heading == "Install"][1]
    result = await asyncio.to_thread(_shell, block.code.replace(Reader.DSN, empty_dsn))
    assert (result.returncode, result.stderr) == (0, "")
    async with pgqrs.Admin(empty_dsn) as admin:
        assert [queue.queue_name for queue in await (await admin.get_queues()).list()] == ["emails"]


async def test_send(reader: Reader) -> None:
    names = await reader.run("Send 1")
    counts = await reader.admin.queue_counts("emails")
    assert (counts.ready, counts.delayed) == (3, 1)
    async with pgqrs.Consumer(reader.admin, "emails") as consumer:
        found = await consumer.dequeue(10)
    assert found[0].id == names["message_id"]
    assert [message.payload["to"][:3] for message in found] == ["ada", "bob", "eve"]


async def _until(counts: Callable[[pgqrs.QueueCounts], bool], admin: pgqrs.Admin) -> None:
    async with asyncio.timeout(30):
        while not counts(await admin.queue_counts("emails")):
            await asyncio.sleep(0.02)


async def test_handle(reader: Reader) -> None:
    post = Post()
    async with pgqrs.Producer(reader.admin, "emails") as producer:
        await producer.enqueue_batch(["a", "b", "c"])
    running = asyncio.create_task(reader.run("Handle 1", send_email=post))
    await _until(lambda counts: counts.archived == 3, reader.admin)
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    assert post.sent == ["a", "b", "c"]
    (consumer,) = [info for info in await (await reader.admin.get_workers()).list() if info.stop_reason == "drained"]
    assert consumer.status == "stopped"


async def test_a_handler_decides(reader: Reader) -> None:
    async def post(_: Any) -> int:
        return 429

    async with pgqrs.Producer(reader.admin, "emails") as producer, pgqrs.Consumer(reader.admin, "emails") as consumer:
        await producer.enqueue_batch([{"to": "ada@example.com"}, {}])
        running = asyncio.create_task(reader.run("Handle 2", post=post, timedelta=timedelta, consumer=consumer))
        await _until(lambda counts: (counts.delayed, counts.dead) == (1, 1), reader.admin)
        await consumer.drain()
        await running
    (letter,) = await (await reader.admin.get_messages()).dead_letters("emails")
    assert letter.reason == "there is nobody to send it to"


async def test_middleware_stands_around(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    post = Post()

    async def send(message: pgqrs.Message) -> None:
        await post(message.payload)

    async with pgqrs.Producer(reader.admin, "emails") as producer, pgqrs.Consumer(reader.admin, "emails") as consumer:
        message_id = await producer.enqueue("a")
        running = asyncio.create_task(reader.run("Handle 3", send=send, time=time, consumer=consumer))
        await _until(lambda counts: counts.archived == 1, reader.admin)
        await consumer.drain()
        await running
    assert post.sent == ["a"]
    assert re.fullmatch(rf"message {message_id} took 0\.\d{{3}} s\n", capsys.readouterr().out)


@pytest.mark.parametrize("commits", [True, False])
async def test_send_within_the_app_s_own_transaction(reader: Reader, *, commits: bool) -> None:
    connection = await asyncpg.connect(reader.dsn)
    try:
        # The second time round the insert fails, and takes the message with it.
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        if not commits:
            await connection.execute("INSERT INTO orders (id) VALUES (7)")
        async with pgqrs.Producer(reader.admin, "emails") as producer:
            running = reader.run("Send 2", connection=connection, producer=producer)
            if commits:
                await running
            else:
                with pytest.raises(asyncpg.UniqueViolationError):
                    await running
        assert (await reader.admin.queue_counts("emails")).ready == int(commits)
    finally:
        await connection.close()


async def test_receive_in_a_loop(reader: Reader) -> None:
    post = Post(failures=1)
    async with pgqrs.Producer(reader.admin, "emails") as producer:
        await producer.enqueue_batch(["a", "b"])

    async def handled() -> bool:
        counts = await reader.admin.queue_counts("emails")
        return (counts.delayed, counts.archived) == (1, 1)

    async with pgqrs.Consumer(reader.admin, "emails") as consumer:
        await reader.until(reader.run("Receive 1", consumer=consumer, send_email=post, timedelta=timedelta), handled)
    assert post.sent == ["b"]


async def test_receive_in_batches(reader: Reader) -> None:
    post = Post()
    async with pgqrs.Producer(reader.admin, "emails") as producer:
        await producer.enqueue_batch([{"to": "ada"}, {}])
    async with pgqrs.Consumer(reader.admin, "emails") as consumer:
        await reader.run("Receive 2", consumer=consumer, send_email=post, timedelta=timedelta)
    assert post.sent == [{"to": "ada"}]
    counts = await reader.admin.queue_counts("emails")
    assert (counts.ready, counts.leased, counts.archived, counts.dead) == (0, 0, 0, 1)


async def test_dead_letters_are_sent_again(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    async with pgqrs.Producer(reader.admin, "emails") as producer, pgqrs.Consumer(reader.admin, "emails") as consumer:
        await producer.enqueue({})
        await reader.run("Receive 2", consumer=consumer, send_email=Post(), timedelta=timedelta)
        names = await reader.run("Receive 3")
    assert capsys.readouterr().out == "{} there is nobody to send it to\n"
    assert names["replayed"] == 1
    assert (await reader.admin.queue_counts("emails")).ready == 1


async def test_queues_are_looked_after(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    names = await reader.run("Look after queues 1", timedelta=timedelta)
    assert capsys.readouterr().out == "0 0 0 0\n"
    assert (names["counts"], names["removed"]) == (pgqrs.QueueCounts(), 0)
    with pytest.raises(pgqrs.QueueNotFoundError):
        await reader.admin.get_queue("reports")


async def test_queues_are_looked_after_by_commands(reader: Reader) -> None:
    (block,) = [block for block in blocks(_PAGE, "sh") if block.heading == "Look after queues"]
    async with pgqrs.Producer(reader.admin, "emails") as producer, pgqrs.Consumer(reader.admin, "emails") as consumer:
        letter = await producer.enqueue("a")
        await consumer.dequeue()
        await consumer.dead_letter(letter, "there is nobody to send it to")
        result = await asyncio.to_thread(_shell, block.code, reader.dsn)
    assert (result.returncode, result.stderr) == (0, "")
    assert "there is nobody to send it to" in result.stdout
    assert "1 dead letter(s) sent again" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 message(s) removed"
    assert (await reader.admin.get_queue("emails")).retention == pgqrs.QueueRetention(archived=timedelta(days=7))


async def test_in_a_pod_nothing_is_configured(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQRS_DSN", reader.dsn)
    monkeypatch.setenv("PGQRS_QUEUE", "emails")
    monkeypatch.setenv("PGQRS_HOSTNAME", "web-7d9.shop")
    async with pgqrs.Producer(reader.admin, "emails", "sender") as producer:
        await producer.enqueue("a")
    post = Post()

    async def archived() -> bool:
        return (await reader.admin.queue_counts("emails")).archived == 1

    await reader.until(reader.run("In a pod 1", send_email=post), archived)
    assert post.sent == ["a"]
    (worker,) = [w for w in await (await reader.admin.get_workers()).list() if w.hostname == "web-7d9.shop"]
    assert worker.status == "stopped"


async def test_the_verbs_of_a_worker(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    async with pgqrs.Consumer(reader.admin, "emails") as consumer:
        names = await reader.run("The life of a worker 1", consumer=consumer, timedelta=timedelta)
        assert await consumer.status() == "stopped"
    assert names["released"] == 0
    assert capsys.readouterr().out == "ready True\n"


async def test_the_verbs_from_outside(reader: Reader) -> None:
    async with pgqrs.Consumer(reader.admin, "emails") as consumer:
        await reader.run("The life of a worker 2", worker_id=consumer.worker_id)
        assert await consumer.status() == "stopped"


async def test_the_commands(reader: Reader) -> None:
    (block,) = [block for block in blocks(_PAGE, "sh") if block.heading == "The life of a worker"]
    async with pgqrs.Consumer(reader.admin, "emails", "host", 1):
        result = await asyncio.to_thread(_shell, block.code, reader.dsn)
    assert (result.returncode, result.stderr) == (0, "")
    assert "host:1" in result.stdout
    assert "1 healthy, 0 stale" in result.stdout


async def test_errors(reader: Reader) -> None:
    async with pgqrs.Producer(reader.admin, "emails") as producer, pgqrs.Consumer(reader.admin, "emails") as consumer:
        await producer.enqueue("x")
        (message,) = await consumer.dequeue()
        async with pgqrs.WorkerHandle(reader.admin, consumer.worker_id) as handle:
            assert await handle.drain(timedelta()) == 1
        with pytest.raises(SystemExit, match="took over"):
            await reader.run("Errors 1", consumer=consumer, message=message)


def test_the_tree_of_errors_is_that_of_the_module() -> None:
    (block,) = blocks(_PAGE, "")
    tree = [line.strip() for line in block.code.splitlines() if line.strip()]
    assert tree
    module = [line.strip() for line in (errors.__doc__ or "").splitlines()]
    assert tree == module[module.index("PgqrsError") :][: len(tree)]
    assert module[module.index("PgqrsError") + len(tree)] == "", "the module's tree goes on"


def test_a_test_of_an_app(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(Reader.blocks_of(_PAGE)["Test your app 1"].code)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


async def test_without_pytest() -> None:
    out = await _program(Reader.blocks_of(_PAGE)["Test your app 2"].code)
    assert out.count("Message(") == 2
