"""The start of the sidecar: ended by SIGTERM at any moment of it, and, where that is wanted, without a database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sidecar.conftest import Observer
from tests.sidecar.processes import Pod, Process, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer
    from tests.support.proxy import Proxy

_CHECKOUT = Path(__file__).parents[2]
#: Stands in the place of a library, at the moment in which the sidecar imports it.
_SLOW_LIBRARY = """
import json, time
print(json.dumps({"event": "importing"}), flush=True)
time.sleep(60)
"""


@contextlib.asynccontextmanager
async def _first_process(env: dict[str, str], *arguments: str, blocks: str = "") -> AsyncIterator[Process]:
    """Start the sidecar as a container does: a SIGTERM that it has no handler for is lost, as for every process 1.

    Args:
        env: the container's environment.
        arguments: of the sidecar.
        blocks: what the image starts it with.
    """
    process = Process(
        await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", f'trap "" TERM; exec {blocks} "$0" -m pgqrs_sidecar "$@"', sys.executable, *arguments,
            env={"PATH": os.environ["PATH"], **env},
            cwd=_CHECKOUT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
        )
    )  # fmt: skip
    try:
        yield process
    finally:
        await process.destroy()


@pytest.mark.parametrize("library", ["asyncpg", "aiohttp", "pythonjsonlogger", "asyncio"])
async def test_sigterm_while_it_imports_ends_it(pod: Pod, tmp_path: Path, library: str) -> None:
    (tmp_path / f"{library}.py").write_text(_SLOW_LIBRARY)
    async with _first_process({**pod.environment, "PYTHONPATH": str(tmp_path)}) as sidecar:
        await sidecar.line(event="importing")
        sidecar.signal(signal.SIGTERM)
        assert await sidecar.ended(within=2.0) == 0


async def test_sigterm_before_its_first_line_waits_until_it_can_be_heard(pod: Pod, tmp_path: Path) -> None:
    # Python imports this before anything of ours runs.
    (tmp_path / "sitecustomize.py").write_text(_SLOW_LIBRARY.replace("60", "1"))
    env = {**pod.environment, "PYTHONPATH": str(tmp_path)}
    async with _first_process(env, blocks="env --block-signal=TERM") as sidecar:
        await sidecar.line(event="importing")
        sidecar.signal(signal.SIGTERM)
        assert await sidecar.ended(within=4.0) == 0
    assert sidecar.count(message="sidecar listens") == 0


async def test_sigterm_right_after_it_listens_leaves_no_row(pod: Pod, database: Observer) -> None:
    async with _first_process(pod.environment) as sidecar:
        await sidecar.line(message="sidecar listens")
        sidecar.signal(signal.SIGTERM)
        assert await sidecar.ended(within=4.0) == 0
    assert await database.rows() == []


async def test_sigterm_while_the_database_is_down_at_the_start_ends_it(
    own_postgres: PostgresServer, own_pod: Pod
) -> None:
    await asyncio.to_thread(own_postgres.stop)
    async with _first_process(own_pod.environment) as sidecar:
        await sidecar.line(message="database trouble begins")
        sidecar.signal(signal.SIGTERM)
        assert await sidecar.ended(within=4.0) == 0


async def test_sigterm_while_the_database_swallows_everything_at_the_start_ends_it(far_pod: Pod, proxy: Proxy) -> None:
    proxy.swallow()
    async with _first_process(far_pod.environment) as sidecar:

        async def asked() -> bool:
            return proxy.accepted > 0

        await eventually(asked)
        sidecar.signal(signal.SIGTERM)
        assert await sidecar.ended(within=6.0) == 0


async def test_other_arguments_are_refused_with_the_usage(pod: Pod) -> None:
    for arguments in (["rendre"], ["--help"], [""]):
        async with _first_process(pod.environment, *arguments) as sidecar:
            assert await sidecar.ended() == 2
            assert "usage: pgqrs-sidecar" in sidecar.output
            assert "render" in sidecar.output


async def test_render_is_a_command_of_its_own() -> None:
    # Without any environment, which the agent would complain about.
    async with _first_process({}, "render", "--help") as sidecar:
        assert await sidecar.ended() == 0
        assert "usage" in sidecar.output


async def test_a_pod_may_start_without_its_database(own_postgres: PostgresServer, own_pod: Pod) -> None:
    await asyncio.to_thread(own_postgres.stop)
    sidecar = await own_pod.sidecar(started=False, PGQRS_START_WITHOUT_DATABASE="true", PGQRS_START_SECONDS="0.5")
    assert not await own_pod.is_started()
    await sidecar.line(message="the pod starts without its database")
    assert await own_pod.is_started()
    state = await own_pod.state()
    assert (state["registered"], state["started"]) == (False, True)

    async with own_pod.session() as session:
        # The app that has started is handed its row when there is one.
        await asyncio.to_thread(own_postgres.start)
        worker_id = (await session.welcome())["worker_id"]
        assert [row["id"] for row in await Observer(own_postgres.dsn()).rows()] == [worker_id]
    assert (await own_pod.state())["registered"]
    assert await own_pod.is_started()


async def test_a_sidecar_without_a_row_ends_before_its_startup_probe_would_drain_the_pod(
    own_postgres: PostgresServer, own_pod: Pod
) -> None:
    await asyncio.to_thread(own_postgres.stop)
    sidecar = await own_pod.sidecar(started=False, PGQRS_GIVE_UP_SECONDS="1")
    assert await sidecar.ended() == 1
    assert sidecar.count(message="no worker for too long, the sidecar ends") == 1
    assert sidecar.count(message="drain begins") == 0
    # In a pod that may start without its database the sidecar stays.
    patient = await own_pod.sidecar(
        started=False,
        PGQRS_GIVE_UP_SECONDS="1",
        PGQRS_START_WITHOUT_DATABASE="true",
        PGQRS_START_SECONDS="0.1",
    )

    async def waited_for_longer() -> bool:
        return ((await own_pod.state())["database_failing_seconds"] or 0.0) > 1.5

    await eventually(waited_for_longer)
    assert await own_pod.is_started()
    assert patient.count(message="no worker for too long, the sidecar ends") == 0


async def test_a_pod_that_may_start_without_its_database_still_waits_a_while_for_it(
    pod: Pod, database: Observer
) -> None:
    sidecar = await pod.sidecar(PGQRS_START_WITHOUT_DATABASE="true", PGQRS_START_SECONDS="60")
    assert (await pod.state())["registered"]
    assert sidecar.count(message="the pod starts without its database") == 0
    assert len(await database.rows()) == 1


async def test_without_the_option_it_is_never_started_without_its_database(
    own_postgres: PostgresServer, own_pod: Pod
) -> None:
    await asyncio.to_thread(own_postgres.stop)
    sidecar = await own_pod.sidecar(started=False, PGQRS_START_SECONDS="0.1")
    await sidecar.line(message="database trouble begins")

    async def tried_for_longer() -> bool:
        failing = (await own_pod.state())["database_failing_seconds"]
        return failing is not None and failing > 0.5

    await eventually(tried_for_longer)
    assert not await own_pod.is_started()
