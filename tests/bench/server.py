"""The private server of a run, set up as for production: it syncs its log to the disk."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

#: What differs from the defaults; the tests' server has other values for the last three.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB", "fsync": "on", "max_connections": "100"}
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_STATEMENT_SECONDS = 300
_WATCH_SECONDS = 0.1
#: Sessions that run a statement: on a CPU, or waiting for something.
_DOING = """
SELECT coalesce(wait_event, 'CPU') AS doing, count(*) AS sessions FROM pg_stat_activity
WHERE datname LIKE 'bench%' AND backend_type = 'client backend' AND state = 'active' GROUP BY 1
"""


class Activity:
    """What the sessions that ran a statement were doing, as it was seen from time to time."""

    def __init__(self) -> None:
        self._sessions: Counter[str] = Counter()
        self._looks = 0

    def add(self, sessions: Mapping[str, int]) -> None:
        """Note how many sessions did what at one moment."""
        self._sessions.update(sessions)
        self._looks += 1

    def clear(self) -> None:
        """Forget what was seen so far."""
        self._sessions.clear()
        self._looks = 0

    def means(self) -> dict[str, float]:
        """Give the mean number of sessions that did each thing, the most frequent first."""
        return {doing: count / self._looks for doing, count in self._sessions.most_common()}


class BenchServer:
    """The server, its databases and how much CPU it has used."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def dsn(self, database: str) -> str:
        """Give the address of a database."""
        return self._server.dsn(database)

    @asynccontextmanager
    async def session(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """Connect for the length of a block."""
        connection = await asyncpg.connect(self.dsn(database), command_timeout=_STATEMENT_SECONDS)
        try:
            yield connection
        finally:
            await connection.close()

    async def execute(self, database: str, *texts: str) -> None:
        """Run statements, each in a transaction of its own."""
        async with self.session(database) as connection:
            for text in texts:
                await connection.execute(text)

    async def value(self, database: str, text: str) -> int:
        """Give what a query answers."""
        async with self.session(database) as connection:
            return int(await connection.fetchval(text))

    @asynccontextmanager
    async def snapshot(self, database: str) -> AsyncIterator[None]:
        """Hold a snapshot open, as a forgotten transaction or a long report does."""
        async with self.session(database) as connection, connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT txid_current()")
            yield

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Activity]:
        """Look several times a second what the sessions of the contenders do, until the block ends."""
        activity = Activity()

        async def watch() -> None:
            while True:
                rows = await connection.fetch(_DOING)
                activity.add({row["doing"]: row["sessions"] for row in rows})
                await asyncio.sleep(_WATCH_SECONDS)

        async with self.session() as connection, asyncio.TaskGroup() as group:
            task = group.create_task(watch())
            try:
                yield activity
            finally:
                task.cancel()

    async def version(self) -> str:
        """Give the server's version."""
        async with self.session() as connection:
            return str(await connection.fetchval("SHOW server_version")).split()[0]

    def cpu_seconds(self) -> float:
        """Give the CPU that all its processes have used, those included that have ended."""
        postmaster = int((self._server.data / "postmaster.pid").read_text().split()[0])
        while True:
            before = _ticks(postmaster)
            living = 0
            for folder in Path("/proc").iterdir():
                ticks = _ticks(int(folder.name)) if folder.name.isdigit() else None
                if ticks is not None and ticks.parent == postmaster:
                    living += ticks.own
            # One that ended meanwhile is in both sums, or in neither.
            if before is not None and before == _ticks(postmaster):
                return (before.own + before.ended + living) / _TICKS_PER_SECOND


@dataclass(frozen=True, slots=True)
class _Ticks:
    """The times of a process: its own, and those of its children that have ended."""

    parent: int
    own: int
    ended: int


def _ticks(process: int) -> _Ticks | None:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # After the name in brackets, which may hold anything: state, parent, and from the 12th on the times.
    fields = text.rpartition(")")[2].split()
    user, system, ended_user, ended_system = map(int, fields[11:15])
    return _Ticks(parent=int(fields[1]), own=user + system, ended=ended_user + ended_system)


@contextmanager
def bench_server() -> Iterator[BenchServer]:
    """Run the server until the block ends, however it ends."""
    server = PostgresServer()
    try:
        server.create()
        server.reload(**SETTINGS)
        # Memory and connections are only taken up by a start.
        server.stop("fast")
        server.start()
        yield BenchServer(server)
    finally:
        server.destroy()
