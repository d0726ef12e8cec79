"""Where measurements happen: databases on the server, one for each contender with each setting, and their processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.bench import environments
from tests.bench.children import ChildError, Task, perform
from tests.bench.results import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.contenders import Contender, Setting
    from tests.bench.scale import Scale
    from tests.bench.server import BenchServer

_INSTALL_SECONDS = 60.0
#: Beside what a measurement is to take: for the start of a worker's loop and for stragglers.
_MORE_SECONDS = 60.0
_REST_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_CLEANING = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"


class Stage:
    """Gives each measurement an empty queue and counts what it costs."""

    def __init__(self, server: BenchServer, scale: Scale) -> None:
        self.server = server
        self.scale = scale
        self._pythons: dict[str, Path] = {}
        #: Why an environment is missing; it is not tried again in this run.
        self._missing: dict[str, environments.EnvironmentMissingError] = {}
        self._installed: set[str] = set()

    async def prepare(self, contender: Contender) -> None:
        """Make the contender's environment.

        Raises:
            EnvironmentMissingError: its packages cannot be installed.
        """
        name = contender.environment
        if name in self._missing:
            raise self._missing[name]
        if name not in self._pythons:
            try:
                self._pythons[name] = await asyncio.to_thread(environments.python, name)
            except environments.EnvironmentMissingError as error:
                self._missing[name] = error
                raise

    def task(
        self,
        contender: Contender,
        setting: Setting,
        database: str,
        verb: str,
        *,
        more: dict[str, Any],
        **numbers: float,
    ) -> Task:
        """Describe what one process of the contender is to do."""
        return Task(
            python=self._pythons[contender.environment],
            module=contender.module,
            dsn=self.server.dsn(database),
            verb=verb,
            setting={"completed": "archive", **setting.values, **more},
            numbers=numbers,
        )

    async def database(self, contender: Contender, setting: Setting, suffix: str = "") -> str:
        """Give the name of the contender's database, made and installed at the first call.

        Raises:
            ChildError: the contender cannot install its tables.
        """
        name = "_".join(filter(None, ("bench", contender.name.replace("-", "_"), setting.name, suffix)))
        if name not in self._installed:
            await self.server.execute("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await self.server.execute("postgres", f"CREATE DATABASE {name}")
            await perform([self.task(contender, setting, name, "install", more={})], seconds=_INSTALL_SECONDS)
            self._installed.add(name)
        return name

    async def empty(self, contender: Contender, setting: Setting) -> str:
        """Give the name of the contender's database with an empty queue."""
        database = await self.database(contender, setting)
        await self.server.execute(database, contender.clear)
        return database

    async def tidy(self, database: str) -> None:
        """Do what autovacuum would do in the middle of a measurement."""
        await self.server.execute(database, "VACUUM ANALYZE")

    async def rest(self) -> None:
        """Wait until the server has done what earlier measurements left to it: pages to write, rows to clean away.

        Raises:
            TimeoutError: it did not come to rest.
        """
        await self.server.execute("postgres", "CHECKPOINT")
        async with asyncio.timeout(_REST_SECONDS):
            while await self.server.value("postgres", _CLEANING):
                await asyncio.sleep(_LOOK_SECONDS)

    async def run(
        self, tasks: list[Task], *, seconds: float, tidy: str | None = None
    ) -> tuple[Sample, list[dict[str, float]]]:
        """Have processes work at the same time and add up what they did.

        Args:
            tasks: one for each process.
            seconds: how long they are to take.
            tidy: a database that is vacuumed before they begin.

        Raises:
            ChildError: one of them failed.
        """
        used = [0.0]

        async def before() -> None:
            if tidy is not None:
                await self.tidy(tidy)
            activity.clear()
            used[0] = self.server.cpu_seconds()

        async with self.server.watching() as activity:
            began, answers = await perform(tasks, seconds=seconds + _MORE_SECONDS, before=before)
        count = sum(answer["count"] for answer in answers)
        elapsed = answers[0]["seconds"] if len(tasks) == 1 else max(answer["end"] for answer in answers) - began
        sample = Sample(
            values={"rate": count / elapsed if elapsed > 0 else 0.0},
            count=count,
            seconds=elapsed,
            processes=len(tasks),
            client_cpu=sum(answer["cpu"] for answer in answers),
            server_cpu=self.server.cpu_seconds() - used[0],
            sessions=activity.means(),
        )
        return sample, answers

    async def check_completed(self, contender: Contender, database: str, filled: int, sample: Sample) -> None:
        """Make sure that a backlog was worked off, not only handed out.

        Raises:
            ChildError: messages were left, or were never handed to a handler.
        """
        left = await self.server.value(database, contender.left)
        if left or sample.count < filled:
            message = f"{left} of {filled} messages were not completed, {sample.count:.0f} were handled"
            raise ChildError(message)
