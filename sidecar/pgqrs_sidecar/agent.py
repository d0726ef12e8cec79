"""Puts the parts of the sidecar together, and takes them apart in the right order when the pod ends.

SIGTERM reaches a native sidecar when all app containers have ended, maybe with two seconds left, so the rows are
stopped first and everything else comes after.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

from pgqrs import errors
from pgqrs.database import Database
from pgqrs_sidecar.drain import Drain
from pgqrs_sidecar.heartbeats import Heartbeats
from pgqrs_sidecar.http import HttpServer
from pgqrs_sidecar.outage import Backoff, Outage
from pgqrs_sidecar.rows import PodRows
from pgqrs_sidecar.sessions import SessionServer
from pgqrs_sidecar.tasks import Tasks

if TYPE_CHECKING:
    from pgqrs_sidecar.settings import Settings

_log = logging.getLogger(__name__)

#: What one statement may take, in seconds.
_STATEMENT_SECONDS = 5.0
#: What processes that are still there at SIGTERM get, in seconds: there was no preStop hook, or its drain runs still.
_LAST_DRAIN_SECONDS = 1.5
#: What one attempt to stop the rows may take, and all of them together, in seconds.
_STOP_SECONDS = 1.5
_STOP_ALL_SECONDS = 6.0
_CLOSE_SECONDS = 0.3


class Agent:
    """The sidecar of one pod."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outage = Outage()
        # Two connections: a slow heartbeat must not hold back the release of a dead process's messages. The second
        # one is opened only when it is needed.
        self._database = self._open(_STATEMENT_SECONDS)
        self._tasks = Tasks()
        self._rows = PodRows(self._database, settings, self._outage)
        self._sessions = SessionServer(settings, self._rows, self._tasks)
        self._heartbeats = Heartbeats(settings, self._rows, self._sessions)
        self._drain = Drain(self._rows, self._sessions, self._tasks)
        self._http = HttpServer(settings, self._rows, self._drain, self.state)

    def _open(self, timeout: float) -> Database:
        return Database(
            self._settings.dsn,
            schema=self._settings.schema,
            max_connections=2,
            application_name=f"pgqrs sidecar {self._settings.hostname}"[:63],
            timeout=timeout,
        )

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
        await self._tasks.cancel("rows", "heartbeats", timeout=_CLOSE_SECONDS)
        await self._stop_rows()
        self._sessions.end()

    async def _stop_rows(self) -> None:
        """Stop the pod's rows; tried until it is done or the operator is the faster one."""
        backoff = Backoff(first=0.1, most=0.5)
        try:
            async with asyncio.timeout(_STOP_ALL_SECONDS):
                while True:
                    try:
                        async with asyncio.timeout(_STOP_SECONDS):
                            released = await self._rows.stop(reason="pod ended")
                    except (TimeoutError, errors.DatabaseError):
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
            "draining": self._drain.begun,
            "drained": self._drain.done,
            "seconds_since_heartbeat": None if last is None else round(loop.time() - last, 1),
            "workers": workers,
        }
