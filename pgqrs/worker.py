"""What producers and consumers have in common: a row of their own, the verbs of its life cycle, and its heartbeats."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from pgqrs import arguments, errors, lifecycle, names
from pgqrs.admin import Admin
from pgqrs.backoff import Backoff
from pgqrs.database import Database
from pgqrs.draining import DEFAULT_DRAIN, drain
from pgqrs.models import MessageId, WorkerId, WorkerStatus
from pgqrs.session import SidecarSession
from pgqrs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from pgqrs.models import QueueInfo

logger = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 5.0
#: How long stopping the row may take when a worker is closed; less than most processes are given to end.
_STOP_SECONDS = 10.0
#: How long a sidecar that the environment names is tried before the worker registers itself.
_SIDECAR_SECONDS = 10.0
#: Between two tries of a database that is waited for.
_DATABASE_BACKOFF = Backoff(first=timedelta(seconds=0.5), factor=2, most=timedelta(seconds=5))


class Worker:
    """A process's part in one queue. Nothing happens before the first await; then it is registered.

    In a pod with the sidecar the row is the sidecar's to hand out and to keep alive; elsewhere the worker registers
    itself and sends its heartbeats in the background.
    """

    def __init__(
        self,
        database: str | Admin | None = None,
        queue: str | None = None,
        host: str | None = None,
        port: int | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Remember what to register; in a pod all of it comes from the environment.

        Args:
            database: a DSN, or an `Admin` whose connections are shared; `PGQRS_DSN` if not given.
            queue: the queue's name; `PGQRS_QUEUE` if not given.
            host: the first half of the worker's identity; `PGQRS_HOSTNAME` or the machine's name if not given.
            port: the second half; a free number if not given.
            replace: take the identity even from a worker that is alive.

        Raises:
            ConfigurationError: there is no DSN or no queue, neither given nor in the environment.
            ValidationError: host or port are not allowed.
        """
        self._settings = Settings.from_env()
        chosen_queue = queue or self._settings.queue
        if chosen_queue is None:
            message = "No queue is given; name one, or set PGQRS_QUEUE (the label pgqrs.io/queue on the pod does)."
            raise errors.ConfigurationError(message)
        self.queue = names.queue_name(chosen_queue)
        if host is not None or port is not None:
            names.worker_name(host or self._settings.hostname, port or 0)
        self._host, self._port, self._replace = host, port, replace
        self._shared = isinstance(database, Admin)
        if isinstance(database, Admin):
            self._db = database.database
        else:
            dsn = database or self._settings.dsn
            if dsn is None:
                message = "No DSN is given; pass one, or set PGQRS_DSN (the label pgqrs.io/queue on the pod does)."
                raise errors.ConfigurationError(message)
            self._db = Database(dsn, schema=self._settings.schema, application_name=f"pgqrs {self.queue}"[:63])
        self._registering = asyncio.Lock()
        self._worker_id: WorkerId | None = None
        self._queue_info: QueueInfo | None = None
        self._session: SidecarSession | None = None
        self._patience: asyncio.Timeout | None = None
        self._background: list[asyncio.Task[None]] = []
        self._held: set[MessageId] = set()
        self._draining = asyncio.Event()
        self._closed = False
        self._left = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(queue={self.queue!r}, worker_id={self._worker_id})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def worker_id(self) -> WorkerId:
        """The id of the worker's row.

        Raises:
            WorkerNotFoundError: it is not registered yet; await `start()` or any other call first.
        """
        if self._worker_id is None:
            message = f"{self!r} is not registered yet; await start() or any other call first."
            raise errors.WorkerNotFoundError(message)
        return self._worker_id

    @property
    def draining(self) -> bool:
        """Whether this worker was told to finish and fetch no more."""
        return self._draining.is_set()

    async def start(self) -> WorkerId:
        """Register the worker if it is not registered yet, and give its id.

        Raises:
            QueueNotFoundError: there is no such queue.
            WorkerAlreadyActiveError: somebody alive has this identity.
            WorkerNotReadyError: the pod is ending, or this worker was closed.
            DatabaseUnavailableError: PostgreSQL cannot be reached, and `PGQRS_START_WITHOUT_DATABASE` does not say that
                this is to be waited for.
        """
        async with self._registering:
            self._check_open()
            if self._worker_id is None:
                self._worker_id = await self._become_worker()
                if self._closed:
                    # Meanwhile. Whoever closed it may have been cancelled and not wait for us.
                    await self._leave()
                    self._check_open()
                self._background = [
                    asyncio.create_task(self._send_heartbeats(), name="pgqrs-heartbeats"),
                    asyncio.create_task(self._attach(), name="pgqrs-attach"),
                ]
        return self._worker_id

    def _check_open(self) -> None:
        if self._closed:
            message = f"{self!r} is closed; make a new one."
            raise errors.WorkerNotReadyError(message)

    async def _become_worker(self) -> WorkerId:
        """Be handed a row or register one; where the environment says so, wait for a database that is not there yet."""
        attempt = 1
        while True:
            try:
                return await self._open_session() or await self._register()
            except errors.DatabaseUnavailableError as error:
                self._check_open()
                if not self._settings.start_without_database:
                    raise
                logger.warning("no database yet, trying again", extra={"queue": self.queue, "error": str(error)})
            async with self._patient():
                await asyncio.sleep(_DATABASE_BACKOFF.seconds(attempt))
            attempt += 1

    async def _open_session(self) -> WorkerId | None:
        """Let the sidecar hand out a row; None without a sidecar, or where the app wants an identity of its own."""
        session = self._new_session()
        if session is None:
            return None
        async with self._patient():
            worker_id = await session.open_within(_SIDECAR_SECONDS)
        self._session = session if worker_id is not None else None
        return worker_id

    @asynccontextmanager
    async def _patient(self) -> AsyncIterator[None]:
        """Wait for something until the worker is closed."""
        try:
            async with asyncio.timeout(None) as self._patience:
                yield
        except TimeoutError:
            self._check_open()
            raise
        finally:
            self._patience = None

    def _new_session(self) -> SidecarSession | None:
        address = self._settings.sidecar
        if address is None or self._host is not None or self._port is not None:
            return None
        container = self._settings.pod.container if self._settings.pod else None
        return SidecarSession(address, queue=self.queue, container=container, listener=self)

    async def _attach(self) -> None:
        """Show the sidecar a row that this worker registered itself; it must not hold up the heartbeats."""
        session = self._new_session()
        if session is None or self._session is not None:
            return
        session.worker_id = self._worker_id
        if await session.take_up(every=_HEARTBEAT_SECONDS):
            self._session = session

    async def _register(self) -> WorkerId:
        info = await lifecycle.register(
            self._db,
            self.queue,
            hostname=self._host or self._settings.hostname,
            port=self._port,
            replace=self._replace,
            pod=self._settings.pod,
        )
        return info.id

    async def _send_heartbeats(self) -> None:
        """Keep the row alive while no sidecar does; ends when the row is stopped."""
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            if self._session is not None and self._session.connected:
                continue
            try:
                self._state_seen(await lifecycle.heartbeat(self._db, await self.start()))
            except errors.WorkerReplacedError:
                logger.warning("worker was stopped from outside", extra={"worker_id": self._worker_id})
                self._state_seen(WorkerStatus.STOPPED)
                return
            except errors.WorkerNotReadyError:
                # It was closed.
                return
            except errors.PgqrsError as error:
                logger.warning("heartbeat failed", extra={"worker_id": self._worker_id, "error": str(error)})

    def _state_seen(self, status: WorkerStatus) -> None:
        """Take what a heartbeat was answered; whoever loops over messages also learns it from the next call."""

    def drain_requested(self, seconds: float) -> None:
        """Take the sidecar's word that the pod ends."""
        logger.info("draining", extra={"worker_id": self._worker_id, "seconds": seconds, "held": len(self._held)})
        self._draining.set()
        self._report_drained()

    def state_changed(self, status: WorkerStatus) -> None:
        """Take the sidecar's word that somebody changed the row; a stopped worker has nothing left to do."""
        logger.info("worker state changed", extra={"worker_id": self._worker_id, "state": status.value})
        if status is WorkerStatus.STOPPED:
            self._held.clear()
            self._draining.set()

    def _report_drained(self) -> None:
        if self._session is not None and self.draining and not self._held:
            self._session.send_drained()

    async def status(self) -> WorkerStatus:
        """Read the worker's state from its row."""
        return await lifecycle.status(self._db, await self.start())

    async def heartbeat(self) -> None:
        """Say now that the worker is alive; this also happens by itself.

        Raises:
            WorkerReplacedError: the worker was stopped or replaced.
        """
        await lifecycle.heartbeat(self._db, await self.start())

    async def is_healthy(self, max_age: timedelta) -> bool:
        """Tell whether the last heartbeat is at most `max_age` old, by the server's clock."""
        return await lifecycle.is_healthy(self._db, await self.start(), max_age)

    async def suspend(self) -> None:
        """Pause; see `lifecycle.suspend` for what it raises."""
        await lifecycle.suspend(self._db, await self.start())

    async def resume(self) -> None:
        """Work again after a pause; see `lifecycle.resume` for what it raises."""
        await lifecycle.resume(self._db, await self.start())

    async def shutdown(self) -> None:
        """Stop for good after a pause; see `lifecycle.shutdown` for what it raises."""
        await lifecycle.shutdown(self._db, await self.start())

    async def drain(self, timeout: timedelta = DEFAULT_DRAIN) -> int:
        """Fetch no more, let what is leased be finished, then suspend and stop.

        Args:
            timeout: how long to wait for leased messages; what is left then is released for others.

        Returns:
            How many messages had to be released.

        Raises:
            ValidationError: the timeout is no duration, or negative.
        """
        arguments.seconds("timeout", timeout)
        worker_id = await self.start()
        self._draining.set()
        self._state_seen(WorkerStatus.INTERRUPTED)
        released = await drain(self._db, worker_id, timeout, reason="drained")
        self._held.clear()
        self._report_drained()
        return released

    async def aclose(self) -> None:
        """End cleanly: the row is stopped and whatever it still holds is free for others; iterations end.

        May be called at any time, beside other calls and again after it was cancelled. A database that cannot be
        reached, or was closed before, is no error: that is logged, and the reaper stops the row when it falls silent.
        """
        self._closed = True
        self._draining.set()
        if self._patience is not None and not self._patience.expired():
            # The sidecar sees the connection end, which stops a row that it was about to hand out.
            self._patience.reschedule(0.0)
        try:
            # A registration under way must not leave a row behind; it is over when its deadline is.
            async with self._registering:
                await self._leave()
        finally:
            if not self._shared:
                await self._db.aclose()

    async def _leave(self) -> None:
        """Give the row back, once; where that was cut short it can be repeated."""
        background = [task for task in self._background if not task.done()]
        for task in background:
            task.cancel()
        if self._left:
            return
        try:
            confirmed = self._session is not None and await self._session.close()
            await asyncio.gather(*background, return_exceptions=True)
            if self._worker_id is not None and not confirmed:
                async with asyncio.timeout(_STOP_SECONDS):
                    await lifecycle.stop(self._db, [self._worker_id], reason="closed")
        except (errors.PgqrsError, TimeoutError) as error:
            # Whoever closes can do nothing about it, and an error would hide the one that made it close.
            logger.warning("row not stopped", extra={"worker_id": self._worker_id, "error": str(error)})
        self._left = True
