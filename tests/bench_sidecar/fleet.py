"""Many sidecars without pods around them: what they cost the database.

A process runs a hundred agents, each with an identity of its own, against a server of the run's own. Their memory
and CPU mean nothing here; their statements and connections are those of as many pods.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pgqrs
from pgqrs_sidecar.agent import Agent
from pgqrs_sidecar.settings import Settings
from tests.bench.server import BenchServer
from tests.bench_sidecar.results import Fleet
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

QUEUE = "bench"
_PER_PROCESS = 100
_START_SECONDS = 180.0
_SETTLE_SECONDS = 10.0
_LOOK_SECONDS = 0.25
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgqrs sidecar%'"
_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'"
_REGISTERED = "SELECT count(*) FROM pgqrs_workers WHERE status = 'ready'"


def _settings(dsn: str, number: int, mode: str) -> Settings:
    return Settings.from_env(
        {
            "PGQRS_DSN": dsn,
            "PGQRS_QUEUE": QUEUE,
            "PGQRS_HOSTNAME": f"pod-{number}.bench",
            "PGQRS_POD_NAME": f"pod-{number}",
            "PGQRS_POD_NAMESPACE": "bench",
            "PGQRS_POD_UID": f"uid-{number}",
            "PGQRS_SIDECAR_TOKEN": "bench",
            "PGQRS_SIDECAR_HTTP_PORT": "0",
            "PGQRS_SIDECAR_SESSION_PORT": "0",
            "PGQRS_CONNECTION_MODE": mode,
            "PGQRS_LOG_LEVEL": "WARNING",
        }
    )


async def _child(dsn: str, first: int, count: int, mode: str) -> None:
    """Be so many sidecars until killed."""
    await asyncio.gather(*(Agent(_settings(dsn, first + number, mode)).run() for number in range(count)))


@asynccontextmanager
async def _sidecars(dsn: str, count: int, mode: str) -> AsyncIterator[None]:
    words = (sys.executable, "-m", "tests.bench_sidecar.fleet", dsn)
    children = [
        await asyncio.create_subprocess_exec(*words, str(first), str(min(_PER_PROCESS, count - first)), mode)
        for first in range(0, count, _PER_PROCESS)
    ]
    try:
        yield
    finally:
        for child in children:
            child.kill()
        for child in children:
            await child.wait()


async def measure(server: BenchServer, count: int, mode: str, seconds: float) -> Fleet:
    """Let so many sidecars beat at the default interval for a while.

    Raises:
        TimeoutError: they did not register in time.
    """
    dsn = server.dsn("postgres")
    await server.execute("postgres", "TRUNCATE pgqrs_workers CASCADE")
    async with _sidecars(dsn, count, mode):
        async with asyncio.timeout(_START_SECONDS):
            while await server.value("postgres", _REGISTERED) < count:
                await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(_SETTLE_SECONDS)
        loop = asyncio.get_running_loop()
        async with server.session() as session:
            began, cpu, commits = loop.time(), server.cpu_seconds(), await session.fetchval(_COMMITS)
            seen: list[int] = []
            while loop.time() < began + seconds:
                seen.append(await session.fetchval(_CONNECTIONS))
                await asyncio.sleep(_LOOK_SECONDS)
            took = loop.time() - began
            # Statistics come with a delay of a second at most, as those of the beginning did.
            done = await session.fetchval(_COMMITS) - commits - len(seen)
            used = server.cpu_seconds() - cpu
    return Fleet(
        count=count,
        mode=mode,
        connections=statistics.mean(seen),
        commits=done / took,
        millicores=used / took * 1000,
    )


@contextmanager
def fleet_server(most: int) -> Iterator[BenchServer]:
    """Run a server for so many sidecars until the block ends."""
    server = PostgresServer()
    try:
        server.create()
        server.reload(fsync="on", max_connections=str(most + 50))
        # Connections are only taken up by a start.
        server.stop("fast")
        server.start()
        yield BenchServer(server)
    finally:
        server.destroy()


async def install(server: BenchServer) -> None:
    """Make the tables and the queue."""
    async with pgqrs.Admin(server.dsn("postgres")) as admin:
        await admin.install()
        await admin.create_queue(QUEUE)


if __name__ == "__main__":
    asyncio.run(_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
