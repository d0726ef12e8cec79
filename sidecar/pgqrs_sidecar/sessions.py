"""The sessions with the app's processes: a connection on loopback is a process, and its end is the process's end.

The page `docs/design/interfaces.md` describes what is said. Nothing is handed out before the token was shown, and no
process can make the sidecar keep more than one line of it in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pgqrs import errors, names, protocol
from pgqrs.models import WorkerId, WorkerStatus
from pgqrs_sidecar.outage import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqrs.models import WorkerInfo
    from pgqrs_sidecar.rows import PodRows, StateChange
    from pgqrs_sidecar.settings import Settings
    from pgqrs_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

#: How long a new process waits for the database before it is told to try again, in seconds; less than the library's
#: own patience with a welcome.
_WELCOME_SECONDS = 20.0
#: How long a goodbye waits for the database; afterwards the row is stopped in the background.
_GOODBYE_SECONDS = 2.0
#: How long a connection that is being closed may take to send what was written, in seconds.
_CLOSE_SECONDS = 1.0
_MAX_CONTAINER_LENGTH = 253

_DIED = "process died"
_ENDED = "process ended"
_CUT = "sidecar ended"


class _RefusedError(Exception):
    """The connection is answered with this error and closed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hello:
    """What a process says first, checked."""

    token: str = field(repr=False)
    queue: str
    container: str | None
    pid: int
    worker_id: WorkerId | None


class Session:
    """One process that has a row."""

    def __init__(self, worker: WorkerInfo, hello: _Hello, writer: asyncio.StreamWriter) -> None:
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
        self._token = settings.token.encode()
        self._rows = rows
        self._tasks = tasks
        self._server: asyncio.Server | None = None
        self._connections = 0
        self._sessions: dict[WorkerId, Session] = {}
        self._drain_until: float | None = None

    @property
    def sessions(self) -> list[Session]:
        """The processes that have a row, in the order in which they came."""
        return list(self._sessions.values())

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
                session.send(protocol.STATE, state=change.status.value)
                _log.info("worker state changed", extra={"worker_id": change.worker_id, "state": change.status.value})

    def drain(self, seconds: float) -> None:
        """Tell all processes to finish, and every one that comes back later too."""
        self._drain_until = asyncio.get_running_loop().time() + seconds
        for session in self._sessions.values():
            self._tell_drain(session)

    def _tell_drain(self, session: Session) -> None:
        if self._drain_until is not None:
            left = max(0.0, self._drain_until - asyncio.get_running_loop().time())
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
            except _RefusedError as refusal:
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
            raise _RefusedError(protocol.UNAVAILABLE, message)
        hello = await self._hear_hello(reader)
        if hello is None:
            return None
        self._supersede(hello)
        worker = await self._worker(hello)
        session = Session(worker, hello, writer)
        self._sessions[worker.id] = session
        told = WorkerStatus.READY if worker.status is WorkerStatus.POLLING else worker.status
        session.send(protocol.WELCOME, worker_id=worker.id, name=worker.name, state=told.value)
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

    async def _hear_hello(self, reader: asyncio.StreamReader) -> _Hello | None:
        try:
            async with asyncio.timeout(self._settings.times.hello):
                message = await protocol.receive(reader)
        except TimeoutError as error:
            text = f"No hello came within {self._settings.times.hello:g} s."
            raise _RefusedError(protocol.BAD_PROTOCOL, text) from error
        except OSError:
            return None
        except errors.SessionError as error:
            raise _RefusedError(protocol.BAD_PROTOCOL, str(error)) from error
        if message is None:
            # A probe of the port, or a process that ended at once.
            return None
        return self._check(message)

    def _check(self, message: dict[str, Any]) -> _Hello:
        token = message.get("token")
        # The token comes first: without it nobody learns what else would be wrong.
        shown = token.encode(errors="backslashreplace") if isinstance(token, str) else b""
        if not hmac.compare_digest(shown, self._token):
            text = "The token is not this pod's; it is in PGQRS_SIDECAR_TOKEN."
            raise _RefusedError(protocol.FORBIDDEN, text)
        if message["type"] != protocol.HELLO or message.get("protocol") != protocol.VERSION:
            text = f"A session starts with a hello of protocol {protocol.VERSION}."
            raise _RefusedError(protocol.BAD_PROTOCOL, text)
        queue, container = message.get("queue"), message.get("container")
        pid, worker_id = message.get("pid"), message.get("worker_id")
        if not (
            isinstance(queue, str)
            and (container is None or _is_container(container))
            and type(pid) is int
            and (worker_id is None or type(worker_id) is int)
        ):
            text = "A hello has queue (text), container (text or null), pid (number) and worker_id (number or null)."
            raise _RefusedError(protocol.BAD_PROTOCOL, text)
        try:
            names.queue_name(queue)
        except errors.ValidationError as error:
            raise _RefusedError(protocol.UNKNOWN_QUEUE, str(error)) from error
        return _Hello(
            token=self._settings.token,
            queue=queue,
            container=container,
            pid=pid,
            worker_id=None if worker_id is None else WorkerId(worker_id),
        )

    def _supersede(self, hello: _Hello) -> None:
        """Let a process that opens a second connection for its row give up the first one, without losing the row."""
        if hello.worker_id is None:
            return
        older = self._sessions.get(hello.worker_id)
        if older is not None and (older.container, older.pid) == (hello.container, hello.pid):
            older.superseded = True
            del self._sessions[older.worker_id]
            self._rows.lend(older.worker_id)
            older.abort()

    async def _worker(self, hello: _Hello) -> WorkerInfo:
        """Find the row for a process, and wait a while for a database that does not answer.

        Raises:
            _RefusedError: there is none for it.
        """
        backoff = Backoff(first=0.1, most=1.0)
        try:
            async with asyncio.timeout(_WELCOME_SECONDS):
                await self._rows.registered.wait()
                while True:
                    try:
                        if hello.worker_id is None:
                            return await self._rows.claim(hello.queue, hello.container)
                        return await self._rows.take_up(hello.worker_id, hello.queue, hello.container)
                    except errors.DatabaseUnavailableError:
                        await asyncio.sleep(backoff.pause())
        except TimeoutError as error:
            text = "The database does not answer; try again later."
            raise _RefusedError(protocol.UNAVAILABLE, text) from error
        except errors.WorkerReplacedError as error:
            raise _RefusedError(protocol.REPLACED, str(error)) from error
        except errors.WorkerNotReadyError as error:
            raise _RefusedError(protocol.DRAINING, str(error)) from error
        except errors.QueueNotFoundError as error:
            raise _RefusedError(protocol.UNKNOWN_QUEUE, str(error)) from error
        except errors.DatabaseError as error:
            raise _RefusedError(protocol.UNAVAILABLE, str(error)) from error

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
                        reason = _ENDED
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
            reason = "process broke the session protocol"
            raise _RefusedError(protocol.BAD_PROTOCOL, str(error)) from error
        finally:
            stopped = self._forget(session, reason)
        if stopped is not None and reason == _ENDED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await stopped.wait()
            session.send(protocol.BYE)

    def _forget(self, session: Session, reason: str) -> asyncio.Event | None:
        if session.superseded:
            return None
        del self._sessions[session.worker_id]
        _log.info("session ended", extra={"worker_id": session.worker_id, "reason": reason})
        return self._rows.release(session.worker_id, reason)


def _is_container(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_CONTAINER_LENGTH and value.isprintable()
