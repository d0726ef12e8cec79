"""The app's side of the session with its pod's sidecar.

The connection is what the sidecar takes as proof of life: it is kept open for as long as the worker lives, and a
connection that broke because the sidecar was restarted is taken up again under the same worker id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from pgqrs import errors, protocol
from pgqrs.models import WorkerId, WorkerStatus

if TYPE_CHECKING:
    from pgqrs.settings import SidecarAddress

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 2.0
#: The sidecar may have to wait for the database before it can hand out a row.
_WELCOME_SECONDS = 30.0
_GOODBYE_SECONDS = 5.0
#: Between two tries of a sidecar that is not there yet.
_POLL_SECONDS = 0.2
_RECONNECT_FIRST_SECONDS = 0.1
_RECONNECT_LAST_SECONDS = 1.0


#: Those whose connection a fork would copy.
_open: weakref.WeakSet[SidecarSession] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Leave the connections to the parent: while a child of a dead process has one, the sidecar does not see the death.

    The numbers of the files stay taken, because objects that the child also has may close them once more.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for session in _open:
        for number in session.files():
            os.dup2(null, number, inheritable=False)
    os.close(null)


os.register_at_fork(after_in_child=_let_go_in_child)


class SessionListener(Protocol):
    """Who wants to know what the sidecar says."""

    def drain_requested(self, seconds: float) -> None:
        """The pod ends: fetch no more, finish what is leased within this time."""

    def state_changed(self, status: WorkerStatus) -> None:
        """Somebody changed the worker's row."""


class SidecarSession:
    """One worker's connection to the sidecar."""

    def __init__(
        self, address: SidecarAddress, *, queue: str, container: str | None, listener: SessionListener
    ) -> None:
        self._address = address
        self._queue = queue
        self._container = container
        self._listener = listener
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._bye = asyncio.Event()
        self._drained = False
        self.worker_id: WorkerId | None = None
        self.name = ""

    def files(self) -> list[int]:
        """The numbers of the files behind the connection."""
        line = None if self._writer is None else self._writer.get_extra_info("socket")
        return [] if line is None or line.fileno() < 0 else [line.fileno()]

    @property
    def connected(self) -> bool:
        """Whether the sidecar can see that this process is alive."""
        return self._writer is not None

    async def open(self) -> WorkerId:
        """Connect and be handed a worker.

        Raises:
            OSError: no sidecar listens there, or it gave no answer in time.
            SessionError: it refused; where that is why, QueueNotFoundError, WorkerNotReadyError or
                DatabaseUnavailableError.
        """
        reader = await self._connect()
        self._task = asyncio.create_task(self._run(reader), name="pgqrs-session")
        assert self.worker_id is not None  # noqa: S101 - set by _connect
        return self.worker_id

    async def open_within(self, seconds: float) -> WorkerId | None:
        """Connect and be handed a worker, by a sidecar that may just be started anew.

        Args:
            seconds: how long to try; an answer that is on its way then is still waited for.

        Returns:
            The worker's id, or None where no sidecar answered in time.

        Raises:
            SessionError: it refused; see `open`.
        """
        give_up_at = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                return await self.open()
            except OSError as error:
                if asyncio.get_running_loop().time() > give_up_at:
                    logger.warning("no sidecar, registering without it", extra={"error": str(error)})
                    return None
                await asyncio.sleep(_POLL_SECONDS)

    async def take_up(self, *, every: float) -> bool:
        """Try until the sidecar has taken up `worker_id`, a row that exists.

        Args:
            every: seconds between two tries.

        Returns:
            False when the row is stopped, so that there is nothing to take up.
        """
        while True:
            await asyncio.sleep(every)
            try:
                await self.open()
            except errors.WorkerReplacedError:
                return False
            except (OSError, errors.PgqrsError) as error:
                logger.debug("still no sidecar", extra={"worker_id": self.worker_id, "error": str(error)})
            else:
                return True

    async def _connect(self) -> asyncio.StreamReader:
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(
                self._address.host, self._address.port, limit=protocol.MAX_LINE
            )
        try:
            writer.write(
                protocol.encode(
                    protocol.HELLO,
                    protocol=protocol.VERSION,
                    token=self._address.token,
                    queue=self._queue,
                    container=self._container,
                    pid=os.getpid(),
                    worker_id=self.worker_id,
                )
            )
            async with asyncio.timeout(_WELCOME_SECONDS):
                await writer.drain()
                welcome = await protocol.receive(reader)
            if welcome is None:
                message = "The sidecar closed the session before it was open."
                raise ConnectionResetError(message)
            if welcome["type"] == protocol.ERROR:
                raise _refusal(welcome)
            if welcome["type"] != protocol.WELCOME:
                message = f"The sidecar answered {welcome['type']!r} instead of a welcome."
                raise errors.SessionError(message)
            self._take(welcome)
        except BaseException:
            writer.close()
            raise
        self._writer = writer
        _open.add(self)
        if self._drained:
            self.send_drained()
        return reader

    def _take(self, welcome: dict[str, Any]) -> None:
        try:
            self.worker_id, self.name = WorkerId(int(welcome["worker_id"])), str(welcome["name"])
        except (KeyError, TypeError, ValueError) as error:
            message = "The sidecar's welcome names no worker; sidecar and library must be of versions that fit."
            raise errors.SessionError(message) from error

    async def _run(self, reader: asyncio.StreamReader) -> None:
        """Answer the sidecar until the session is closed; come back after a sidecar that was restarted."""
        while True:
            try:
                while (message := await protocol.receive(reader)) is not None:
                    self._handle(message)
            except (OSError, errors.SessionError) as error:
                logger.warning("session with the sidecar broke", extra={"error": str(error)})
            self._drop()
            if self._closing:
                return
            logger.warning("sidecar is gone, trying to reach it again", extra={"worker_id": self.worker_id})
            found = await self._reconnect()
            if found is None:
                return
            reader = found

    async def _reconnect(self) -> asyncio.StreamReader | None:
        delay = _RECONNECT_FIRST_SECONDS
        told = ""
        while True:
            try:
                return await self._connect()
            except errors.WorkerReplacedError:
                # The sidecar came back and did not know us in time: this id can do no more work.
                self._listener.state_changed(WorkerStatus.STOPPED)
                return None
            except (OSError, errors.PgqrsError) as error:
                if str(error) != told:
                    told = str(error)
                    extra = {"worker_id": self.worker_id, "error": told}
                    logger.warning("sidecar does not take the worker up, trying again", extra=extra)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, hides nothing
                delay = min(delay * 2, _RECONNECT_LAST_SECONDS)

    def _handle(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case protocol.PING:
                self._send(protocol.encode(protocol.PONG, n=message.get("n")))
            case protocol.DRAIN:
                self._listener.drain_requested(_seconds(message.get("seconds")))
            case protocol.STATE if message.get("state") in set(WorkerStatus):
                self._listener.state_changed(WorkerStatus(message["state"]))
            case protocol.BYE:
                self._bye.set()
            case protocol.ERROR:
                logger.warning("sidecar reports an error", extra={"error": message.get("message")})
            case other:
                # A newer sidecar may say more than we know.
                logger.debug("unknown message of the sidecar", extra={"type": other})

    def send_drained(self) -> None:
        """Tell the sidecar that nothing is leased any more; said again after a reconnect."""
        self._drained = True
        self._send(protocol.encode(protocol.DRAINED))

    def _send(self, line: bytes) -> None:
        if self._writer is not None:
            self._writer.write(line)

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def close(self) -> bool:
        """Say goodbye, so that the sidecar stops the row.

        Returns:
            Whether the sidecar confirmed it; if not, the row is the caller's to stop.
        """
        self._closing = True
        try:
            if self._writer is not None:
                self._send(protocol.encode(protocol.GOODBYE))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GOODBYE_SECONDS):
                        await self._bye.wait()
        finally:
            self._drop()
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
        return self._bye.is_set()


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _refusal(message: dict[str, Any]) -> errors.PgqrsError:
    text = str(message.get("message") or "The sidecar refused the session.")
    kinds: dict[str, type[errors.PgqrsError]] = {
        protocol.UNKNOWN_QUEUE: errors.QueueNotFoundError,
        protocol.DRAINING: errors.WorkerNotReadyError,
        protocol.REPLACED: errors.WorkerReplacedError,
        protocol.UNAVAILABLE: errors.DatabaseUnavailableError,
    }
    return kinds.get(str(message.get("code")), errors.SessionError)(text)
