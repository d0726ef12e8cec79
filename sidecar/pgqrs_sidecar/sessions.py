"""The sessions with the app's processes: a connection on loopback is a process, and its end is the process's end.

The page `docs/session-protocol.md` describes what is said. Nothing is handed out before the token was shown, and no
process can make the sidecar keep more than one line of it in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from pgqrs import errors, lifecycle, protocol
from pgqrs.models import WorkerId, WorkerStatus
from pgqrs_sidecar.book import told
from pgqrs_sidecar.handshake import Hello, Reception, RefusedError, hear_hello
from pgqrs_sidecar.rows import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pgqrs.models import WorkerInfo
    from pgqrs_sidecar.rows import PodRows, StateChange
    from pgqrs_sidecar.settings import Settings
    from pgqrs_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

#: How long a goodbye waits for the database; afterwards the row is stopped in the background.
_GOODBYE_SECONDS = 2.0
#: How long a connection that is being closed may take to send what was written, in seconds.
_CLOSE_SECONDS = 1.0

_DIED = lifecycle.DIED
_CUT = "sidecar ended"
_BROKE = "process broke the session protocol"
#: The same in a word, for those who count.
_WORDS = {_DIED: "died", ENDED: "goodbye", _CUT: "cut", _BROKE: "protocol"}
_SUPERSEDED = "superseded"
#: All ways in which a session ends.
ENDINGS = (*_WORDS.values(), _SUPERSEDED)


class Session:
    """One process that has a row."""

    def __init__(self, worker: WorkerInfo, hello: Hello, writer: asyncio.StreamWriter) -> None:
        self.worker_id = worker.id
        self.name = worker.name
        self.queue = hello.queue
        self.container = hello.container
        self.pid = hello.pid
        #: Whether the process said that it holds nothing any more.
        self.drained = False
        #: Whether a newer connection of the same process has taken over.
        self.superseded = False
        self._writer = writer
        self._pings = 0
        self._pinged_at: float | None = None

    def send(self, kind: str, **fields: Any) -> None:
        """Write a message; a connection that is gone is noticed by its reader."""
        if not self._writer.is_closing():
            self._writer.write(protocol.encode(kind, **fields))

    def ping(self) -> None:
        """Ask whether the event loop turns; not again before the last ping was answered, so nothing piles up."""
        if self._pinged_at is None:
            self._pings += 1
            self._pinged_at = asyncio.get_running_loop().time()
            self.send(protocol.PING, n=self._pings)

    def answered(self, number: object) -> None:
        """Take a pong."""
        if number == self._pings:
            self._pinged_at = None

    @property
    def unanswered(self) -> float:
        """For how long the last ping has been waiting for its answer, in seconds; 0 while none is."""
        return 0.0 if self._pinged_at is None else asyncio.get_running_loop().time() - self._pinged_at

    def abort(self) -> None:
        """Cut the connection."""
        self._writer.transport.abort()


class SessionServer:
    """Accepts sessions, pings them, and tells them what happens to their rows."""

    def __init__(self, settings: Settings, rows: PodRows, tasks: Tasks) -> None:
        self._settings = settings
        self._rows = rows
        self._tasks = tasks
        self._reception = Reception(rows, tasks)
        self._server: asyncio.Server | None = None
        self._connections = 0
        self._sessions: dict[WorkerId, Session] = {}
        self._drain_until: float | None = None
        #: The drains of single containers that run now, as the container and the end of its time.
        self._container_drains: list[tuple[str, float]] = []
        #: How many sessions were opened, ended in which way (`ENDINGS`), and refused with which code of the protocol.
        self.opened = 0
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        #: Whether a process came that had its row before this sidecar: the pod's apps started long ago.
        self.resumed = False

    @property
    def sessions(self) -> list[Session]:
        """The processes that have a row, in the order in which they came."""
        return list(self._sessions.values())

    def of(self, container: str) -> list[Session]:
        """The processes of one container that have a row."""
        return [session for session in self._sessions.values() if session.container == container]

    @property
    def silent(self) -> set[WorkerId]:
        """The rows of processes that have not answered for too long."""
        return {s.worker_id for s in self._sessions.values() if s.unanswered > self._settings.times.pong}

    async def start(self) -> int:
        """Listen, and give the port.

        Raises:
            OSError: the port is taken.
        """
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._settings.ports.session, limit=protocol.MAX_LINE
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def ping(self) -> None:
        """Ping all sessions, for ever."""
        while True:
            await asyncio.sleep(self._settings.times.ping)
            for session in self._sessions.values():
                session.ping()

    def push(self, changes: Iterable[StateChange]) -> None:
        """Tell processes that somebody changed their rows."""
        for change in changes:
            session = self._sessions.get(change.worker_id)
            if session is not None:
                if change.status is WorkerStatus.READY:
                    # What it said of its pause says nothing of what it leases from now on.
                    session.drained = False
                session.send(protocol.STATE, state=change.status.value)
                _log.info("worker state changed", extra={"worker_id": change.worker_id, "state": change.status.value})

    def drain(self, seconds: float) -> None:
        """Tell all processes to finish, and every one that comes back later too."""
        self._drain_until = asyncio.get_running_loop().time() + seconds
        for session in self._sessions.values():
            self._tell_drain(session)

    @contextlib.contextmanager
    def draining(self, container: str, seconds: float) -> Iterator[None]:
        """Tell the processes of a container to finish, and until the block ends also those that come."""
        drain = (container, asyncio.get_running_loop().time() + seconds)
        self._container_drains.append(drain)
        try:
            for session in self.of(container):
                self._tell_drain(session)
            yield
        finally:
            self._container_drains.remove(drain)

    def _tell_drain(self, session: Session) -> None:
        ends = [until for container, until in self._container_drains if container == session.container]
        if self._drain_until is not None:
            ends.append(self._drain_until)
        if ends:
            left = max(0.0, max(ends) - asyncio.get_running_loop().time())
            session.send(protocol.DRAIN, seconds=round(left, 3))

    def stop_accepting(self) -> None:
        """Refuse new connections."""
        if self._server is not None:
            self._server.close()

    def end(self) -> None:
        """Tell all processes that their rows are stopped, for the end of the pod."""
        for session in self._sessions.values():
            session.send(protocol.STATE, state=WorkerStatus.STOPPED.value)

    # One connection

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.passing("session", self._converse(reader, writer))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            try:
                session = await self._welcome(reader, writer)
                if session is not None:
                    await self._attend(session, reader)
            except RefusedError as refusal:
                self.refused[refusal.code] += 1
                _log.warning("session refused", extra={"code": refusal.code, "reason": str(refusal)})
                writer.write(protocol.encode(protocol.ERROR, code=refusal.code, message=str(refusal)))
        finally:
            self._connections -= 1
            await self._close(writer)

    @staticmethod
    async def _close(writer: asyncio.StreamWriter) -> None:
        writer.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await writer.wait_closed()
        except OSError:
            # Broken already, or (TimeoutError) the process does not read what was written.
            writer.transport.abort()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Session | None:
        if self._connections > self._settings.max_sessions:
            message = f"There are {self._settings.max_sessions} sessions already, which is the limit of this sidecar."
            raise RefusedError(protocol.UNAVAILABLE, message)
        hello = await hear_hello(reader, token=self._settings.token, seconds=self._settings.times.hello)
        if hello is None:
            return None
        self.resumed |= hello.worker_id is not None
        self._supersede(hello)
        worker = await self._reception.row_for(hello)
        session = Session(worker, hello, writer)
        self._sessions[worker.id] = session
        self.opened += 1
        session.send(protocol.WELCOME, worker_id=worker.id, name=worker.name, state=told(worker.status).value)
        self._tell_drain(session)
        _log.info(
            "session opened",
            extra={
                "worker_id": worker.id,
                "worker": worker.name,
                "container": hello.container,
                "pid": hello.pid,
                "again": hello.worker_id is not None,
            },
        )
        return session

    def _supersede(self, hello: Hello) -> None:
        """Let a process that opens a second connection for its row give up the first one, without losing the row."""
        if hello.worker_id is None:
            return
        older = self._sessions.get(hello.worker_id)
        if older is not None and (older.container, older.pid) == (hello.container, hello.pid):
            older.superseded = True
            del self._sessions[older.worker_id]
            self._rows.lend(older.worker_id)
            older.abort()

    async def _attend(self, session: Session, reader: asyncio.StreamReader) -> None:
        """Listen to a process until it ends; however that is, its row is taken back."""
        reason = _DIED
        try:
            while (message := await protocol.receive(reader)) is not None:
                match message["type"]:
                    case protocol.PONG:
                        session.answered(message.get("n"))
                    case protocol.DRAINED:
                        session.drained = True
                    case protocol.GOODBYE:
                        reason = ENDED
                        break
                    case _:
                        # A newer library may say more than we know.
                        _log.debug("unknown message", extra={"worker_id": session.worker_id, "type": message["type"]})
        except OSError:
            _log.debug("connection broke", extra={"worker_id": session.worker_id})
        except asyncio.CancelledError:
            reason = _CUT
            raise
        except errors.SessionError as error:
            reason = _BROKE
            raise RefusedError(protocol.BAD_PROTOCOL, str(error)) from error
        finally:
            stopped = self._forget(session, reason)
        if stopped is not None and reason == ENDED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await stopped.wait()
            session.send(protocol.BYE)

    def _forget(self, session: Session, reason: str) -> asyncio.Event | None:
        if session.superseded:
            self.ended[_SUPERSEDED] += 1
            return None
        self.ended[_WORDS[reason]] += 1
        del self._sessions[session.worker_id]
        _log.info("session ended", extra={"worker_id": session.worker_id, "reason": reason})
        return self._rows.release(session.worker_id, reason)
