"""Puts the parts of the sidecar together, and takes them apart in the right order when the pod ends.

SIGTERM reaches a native sidecar when all app containers have ended, maybe with two seconds left, so the rows are
stopped first and everything else comes after.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import Any

from pgqrs import errors
from pgqrs.database import Database
from pgqrs_sidecar import hanging, logs
from pgqrs_sidecar.drain import Drain
from pgqrs_sidecar.heartbeats import Heartbeats
from pgqrs_sidecar.http import HttpServer, Views
from pgqrs_sidecar.metrics import Metrics
from pgqrs_sidecar.outage import Backoff, Outage
from pgqrs_sidecar.rows import PodRows
from pgqrs_sidecar.sessions import SessionServer
from pgqrs_sidecar.settings import ConnectionMode, Settings
from pgqrs_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

#: What one statement may take, in seconds.
_STATEMENT_SECONDS = 5.0
#: What processes that are still there at SIGTERM get, in seconds: there was no preStop hook, or its drain runs still.
_LAST_DRAIN_SECONDS = 1.5
#: What the first attempt to stop the rows may take, and all of them together, in seconds.
_STOP_SECONDS = 1.5
_STOP_ALL_SECONDS = 6.0
#: What each part may take to close when there is nothing more to say, in seconds.
_CLOSE_SECONDS = 0.3
#: How long a connection is kept without a statement, in seconds: by shortLived (longer than a drain waits between its
#: statements), and by persistent beyond two heartbeats.
_SHORT_LIVED_SECONDS = 0.5
_PERSISTENT_SECONDS = 2.0


class Agent:
    """The sidecar of one pod."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outage = Outage()
        # Two connections: a slow heartbeat must not hold back the release of a dead process's messages. The second
        # one is opened only when it is needed.
        self._database = self._open()
        self._tasks = Tasks()
        self._rows = PodRows(self._database, settings, self._outage)
        self._sessions = SessionServer(settings, self._rows, self._tasks)
        self._heartbeats = Heartbeats(settings, self._rows, self._sessions)
        self._drain = Drain(self._database, self._rows, self._sessions, self._tasks)
        metrics = Metrics(
            rows=self._rows,
            sessions=self._sessions,
            heartbeats=self._heartbeats,
            outage=self._outage,
            drain=self._drain,
        )
        self._http = HttpServer(
            settings, self._drain, Views(started=self._is_started, state=self.state, metrics=metrics.text)
        )
        self._starts_anyway = False

    def _open(self) -> Database:
        if self._settings.connection_mode is ConnectionMode.SHORT_LIVED:
            idle_seconds = _SHORT_LIVED_SECONDS
        else:
            idle_seconds = 2 * self._settings.times.heartbeat + _PERSISTENT_SECONDS
        return Database(
            self._settings.dsn,
            schema=self._settings.schema,
            max_connections=2,
            application_name=f"pgqrs sidecar {self._settings.hostname}"[:63],
            timeout=_STATEMENT_SECONDS,
            idle_seconds=idle_seconds,
        )

    def _is_started(self) -> bool:
        # Where the app runs already, waiting for the database may take longer than the startup probe allows; then the
        # kubelet would call the hook that drains the pod, which goes on.
        return self._rows.registered.is_set() or self._starts_anyway or self._sessions.resumed

    async def run(self) -> int:
        """Work until SIGTERM or SIGINT; give the exit code.

        Raises:
            OSError: a port is taken.
        """
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        try:
            session_port = await self._sessions.start()
            http_port = await self._http.start()
            _log.info(
                "sidecar listens",
                extra={"session_port": session_port, "http_port": http_port, "database": self._database.where},
            )
            self._tasks.eternal("rows", self._keep_rows())
            self._tasks.eternal("pings", self._sessions.ping())
            self._tasks.eternal("hanging", hanging.watch())
            self._tasks.passing("give up", self._give_up())
            if self._settings.start_without_database:
                self._tasks.passing("start without database", self._start_anyway())
            await self._first(ended, self._tasks.failed)
            if ended.is_set():
                await self._end_pod()
            return 0 if ended.is_set() else 1
        finally:
            await self._close()

    @staticmethod
    async def _first(*events: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _start_anyway(self) -> None:
        """Let the app start when the database has not been there for too long; its rows come with the database."""
        try:
            async with asyncio.timeout(self._settings.times.start):
                await self._rows.registered.wait()
        except TimeoutError:
            self._starts_anyway = True
            _log.warning("the pod starts without its database", extra={"seconds": self._settings.times.start})

    async def _give_up(self) -> None:
        """End before the startup probe fails: then the kubelet would call the hook that drains the pod.

        In a pod whose sidecar was restarted the apps work already, and those that know nothing of us cannot show it.
        """
        try:
            async with asyncio.timeout(self._settings.times.give_up):
                await self._rows.registered.wait()
        except TimeoutError:
            if not self._is_started():
                seconds = self._settings.times.give_up
                _log.critical("no worker for too long, the sidecar ends", extra={"seconds": seconds})
                self._tasks.failed.set()

    async def _keep_rows(self) -> None:
        await self._rows.recover()
        self._tasks.eternal("heartbeats", self._heartbeats.run())
        if self._rows.terminating:
            # A sidecar before this one had begun it; its rows can never be resumed.
            self._drain.begin(self._settings.times.drain)
        await self._rows.run()

    async def _end_pod(self) -> None:
        _log.info("the pod ends", extra={"sessions": len(self._sessions.sessions), "drained": self._drain.done})
        self._sessions.stop_accepting()
        if self._sessions.sessions and not self._drain.done:
            self._drain.begin(min(self._settings.times.drain, _LAST_DRAIN_SECONDS))
            try:
                async with asyncio.timeout(_LAST_DRAIN_SECONDS):
                    await self._drain.wait()
            except TimeoutError:
                _log.warning("processes are still busy, their messages go back", extra={"leased": self._rows.leased})
        self._rows.close()
        # Whatever these wait for, the rows' end does not wait behind it.
        await self._tasks.cancel("rows", "heartbeats", "drain", timeout=_CLOSE_SECONDS)
        await self._stop_rows()
        self._sessions.end()

    async def _stop_rows(self) -> None:
        """Stop the pod's rows; tried until it is done or the operator is the faster one.

        The first attempt is a short one, because its connection may be dead; where it is only slow the next has time.
        """
        backoff = Backoff(first=0.1, most=0.5)
        # Where no row was made, only a sidecar before this one can have left some.
        seconds = _STOP_ALL_SECONDS if self._rows.made else _STOP_SECONDS
        attempt_seconds: float | None = _STOP_SECONDS
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        async with asyncio.timeout(attempt_seconds):
                            released = await self._rows.stop(reason="pod ended")
                    except (TimeoutError, errors.DatabaseError):
                        attempt_seconds = None
                        await asyncio.sleep(backoff.pause())
                    else:
                        break
        except TimeoutError:
            _log.error("rows could not be stopped; the operator or their heartbeats' timeout will")
        else:
            _log.info("rows stopped", extra={"workers": len(released), "released": sum(released.values())})

    async def _close(self) -> None:
        self._sessions.stop_accepting()
        await self._http.aclose()
        await self._tasks.aclose(timeout=_CLOSE_SECONDS)
        with contextlib.suppress(TimeoutError):
            # Cancelled, it cuts its connections; nothing is under way any more that somebody waits for.
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._database.aclose()

    def state(self) -> dict[str, Any]:
        """What the sidecar knows, for people; it holds no secret."""
        loop = asyncio.get_running_loop()
        sessions = {session.worker_id: session for session in self._sessions.sessions}
        silent = self._sessions.silent
        workers = []
        for info in sorted(self._rows.seen.values(), key=lambda info: info.id):
            session = sessions.get(info.id)
            workers.append(
                {
                    "id": info.id,
                    "name": info.name,
                    "state": info.status.value,
                    "leased": info.leased,
                    "terminating": info.terminating,
                    "container": session.container if session else info.container,
                    "pid": session.pid if session else None,
                    "session": session is not None,
                    "drained": session is not None and session.drained,
                    "silent": info.id in silent,
                }
            )
        last, outage = self._heartbeats.last, self._outage.seconds
        return {
            "pod": f"{self._settings.pod.namespace}/{self._settings.pod.name}",
            "hostname": self._settings.hostname,
            "queue": self._settings.queue,
            "database": self._database.where,
            "database_failing_seconds": None if outage is None else round(outage, 1),
            "registered": self._rows.registered.is_set(),
            "started": self._is_started(),
            "draining": self._drain.begun,
            "drained": self._drain.done,
            "seconds_since_heartbeat": None if last is None else round(loop.time() - last, 1),
            "workers": workers,
        }


def main() -> int:
    """Run the sidecar until it is told to end; give the exit code."""
    try:
        settings = Settings.from_env(os.environ)
    except errors.ConfigurationError as error:
        logs.configure()
        _log.critical("the environment is wrong", extra={"error": str(error)})
        return 2
    logs.configure(settings)
    try:
        return asyncio.run(_run(settings))
    except errors.ConfigurationError as error:
        _log.critical("the environment is wrong", extra={"error": str(error)})
        return 2
    except OSError as error:
        _log.critical("a port cannot be opened", extra={"error": str(error)})
        return 1


async def _run(settings: Settings) -> int:
    return await Agent(settings).run()
