"""Lets an idle consumer sleep until somebody sends: it marks its queue as waited for, and listens for the answer.

Polling stays the truth, listening only shortens and cheapens the wait: what becomes due, what is released and what
upstream's clients send is told to nobody, and a listener may be deaf without knowing. So nothing here ever keeps a
consumer from asking at least once a second, and one whose listener is not proven to hear asks four times as often.

Sending tells only while the mark stands, because a COMMIT that notifies takes one lock for the whole server
(`docs/design/connections.md`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import asyncpg

from pgqrs import errors, statements

if TYPE_CHECKING:
    from pgqrs.connecting import Connection
    from pgqrs.database import Database

logger = logging.getLogger(__name__)

#: One for a whole database; what is said names the schema and the queue.
CHANNEL = "pgqrs"
#: How long a consumer waits before it asks again, in seconds: at first, and at most while it is told of what is sent.
_FIRST_SECONDS = 0.25
_LAST_SECONDS = 1.0
#: How long a mark stands (`notify.mark`), when it is renewed, and how long it is not written again, in seconds.
_STANDS_SECONDS = 5.0
_RENEW_SECONDS = 2.5
_MARK_SECONDS = 1.0
#: How long there is always work until the mark is taken off, in seconds.
_BUSY_SECONDS = 0.2
#: From which wait on a connection is opened for listening; a program that only empties a queue does not need one.
_LISTEN_FROM_WAIT = 2
_PROOF_SECONDS = 3.0
_OPEN_SECONDS = 10.0
_PING_SECONDS = 5.0
_PONG_SECONDS = 3.0
#: After this long without anyone who waits, the connection is given back.
_UNUSED_SECONDS = 60.0
_RETRY_FIRST_SECONDS = 0.5
_RETRY_LAST_SECONDS = 30.0
#: Behind a pooler that swallows notifications nothing changes soon.
_DEAF_SECONDS = 300.0


class _DeafError(Exception):
    """Notifications do not arrive on this way to the server."""


class Listener:
    """The ear of one `Database`: a connection of its own, opened when somebody waits and closed when nobody does."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._task: asyncio.Task[None] | None = None
        self._events: defaultdict[int, set[asyncio.Event]] = defaultdict(set)
        #: For each queue when it is to be marked anew, when the mark runs out, and when it may be written again.
        self._marked_until: dict[int, float] = {}
        self._stands_until: dict[int, float] = {}
        self._mark_again_at: dict[int, float] = {}
        self._unmarking: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        self._wanted_at = 0.0
        self._hears = False
        self._closed = False

    @property
    def hears(self) -> bool:
        """Whether the connection stands and was proven to hear."""
        return self._hears

    def want(self) -> None:
        """Say that somebody waits; opens the connection in the background where there is none."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        self._wanted_at = loop.time()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="pgqrs-listener")

    def distrust(self) -> None:
        """Leave this connection and prove another one: the server it leads to may be the wrong one by now."""
        self._broken.set()

    def subscribe(self, queue_id: int, event: asyncio.Event) -> None:
        """Set this event whenever something is sent to the queue."""
        self._events[queue_id].add(event)

    def unsubscribe(self, queue_id: int, event: asyncio.Event) -> None:
        """Do not set it any more."""
        self._events[queue_id].discard(event)

    async def mark(self, worker_id: int, queue_id: int | None) -> int | None:
        """Keep the queue of this worker marked as waited for, and give its id; None where nobody would tell.

        Args:
            worker_id: the worker that waits.
            queue_id: its queue, once it is known.
        """
        now = asyncio.get_running_loop().time()
        if queue_id is not None and now < self._marked_until.get(queue_id, now):
            return queue_id
        if now < self._mark_again_at.get(queue_id or -worker_id, now):
            return None
        self._mark_again_at[queue_id or -worker_id] = now + _MARK_SECONDS
        try:
            found = await self._db.fetch_value("notify.mark", worker_id)
        except errors.DatabaseUnavailableError:
            return None
        except errors.DatabaseError as error:
            # Most likely a right that this login lacks, which does not change soon.
            logger.info("queues cannot be marked, polling instead", extra={"error": str(error)})
            self._mark_again_at[queue_id or -worker_id] = now + _DEAF_SECONDS
            return None
        if found is None:
            return None
        self._mark_again_at[found] = now + _MARK_SECONDS
        self._marked_until[found] = now + _RENEW_SECONDS
        self._stands_until[found] = now + _STANDS_SECONDS
        return int(found)

    def unmark(self, queue_id: int) -> None:
        """Take the mark off in the background, because there is work; it would also run out by itself."""
        self._marked_until.pop(queue_id, None)
        stands = asyncio.get_running_loop().time() < self._stands_until.pop(queue_id, 0.0)
        if stands and self._unmarking is None and not self._closed:
            self._unmarking = asyncio.get_running_loop().create_task(self._unmark(queue_id), name="pgqrs-unmark")

    async def _unmark(self, queue_id: int) -> None:
        try:
            await self._db.fetch("notify.unmark", queue_id)
        except errors.PgqrsError as error:
            logger.debug("mark not taken off", extra={"error": str(error)})
        finally:
            self._unmarking = None

    async def aclose(self) -> None:
        """Close the connection and stop for good."""
        self._closed = True
        tasks = [task for task in (self._task, self._unmarking) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _wake(self, queue_id: int | None = None) -> None:
        """Let those ask who wait for this queue, or all of them."""
        for known, events in self._events.items():
            if queue_id in (None, known):
                for event in events:
                    event.set()

    def _hear(self, payload: str) -> None:
        schema, _, queue_id = payload.partition(" ")
        if schema == f'"{self._db.schema}"' and queue_id.isdecimal():
            self._wake(int(queue_id))

    async def _run(self) -> None:
        """Listen while somebody waits; whatever goes wrong is tried again, and consumers poll meanwhile."""
        delay = _RETRY_FIRST_SECONDS
        while True:
            self._broken.clear()
            try:
                if not await self._listen():
                    return
                delay = _RETRY_FIRST_SECONDS
            except _DeafError as error:
                logger.info("no notifications here, polling instead", extra={"reason": str(error)})
                delay = _DEAF_SECONDS
            except errors.ConfigurationError as error:
                # It is closed, or its settings cannot be; neither changes by trying again.
                logger.info("not listening", extra={"error": str(error)})
                return
            except (errors.PgqrsError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                logger.warning("listener lost, polling meanwhile", extra={"error": type(error).__name__})
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, hides nothing
            delay = min(delay * 2, _RETRY_LAST_SECONDS)

    async def _listen(self) -> bool:
        """Open a connection and listen on it; False when nobody wants it any more, True when it is to be replaced."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                connection = await self._db.connect()
                connection.add_termination_listener(lambda _: self._broken.set())
                await self._prove(connection)
            self._hears = True
            return await self._stay(connection)
        finally:
            if self._hears:
                self._hears = False
                # Whoever slept on our word asks for itself.
                self._wake()
            if connection is not None:
                await connection.close()

    async def _prove(self, connection: Connection) -> None:
        """Send a word over another connection and hear it on this one."""
        pid = await connection.fetchval(statements.statement("notify.backend", self._db.schema))
        if pid != connection.get_server_pid():
            message = "a pooler stands between, which gives every statement another session"
            raise _DeafError(message)
        word = secrets.token_hex(8)
        heard = asyncio.Event()

        def hear(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
            if payload == word:
                heard.set()
            else:
                self._hear(str(payload))

        await connection.add_listener(CHANNEL, hear)
        await self._db.fetch("notify.tell", CHANNEL, word)
        try:
            async with asyncio.timeout(_PROOF_SECONDS):
                await heard.wait()
        except TimeoutError:
            message = f"what was sent was not heard within {_PROOF_SECONDS} s"
            raise _DeafError(message) from None

    async def _stay(self, connection: Connection) -> bool:
        loop = asyncio.get_running_loop()
        while loop.time() - self._wanted_at < _UNUSED_SECONDS:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PING_SECONDS):
                    await self._broken.wait()
                return True
            await connection.fetchval(statements.statement("notify.backend", self._db.schema), timeout=_PONG_SECONDS)
        return False


class Waiter:
    """How one consumer waits until it is worth asking again."""

    def __init__(self, listener: Listener, worker_id: int) -> None:
        self._listener = listener
        self._worker_id = worker_id
        self._queue_id: int | None = None
        self._told = asyncio.Event()
        #: How often it waited, and how often since there were messages the last time.
        self._waits = 0
        self._rounds = 0
        self._busy_since = 0.0

    def found(self) -> None:
        """Say that there were messages; the next wait is a short one.

        Who has work all the time need not be told: then the mark is taken off, so that sending costs nothing more. A
        message now and then leaves it where it is, or the next one would find nobody who listens.
        """
        now = asyncio.get_running_loop().time()
        if self._rounds:
            self._busy_since = now
        elif self._queue_id is not None and now - self._busy_since > _BUSY_SECONDS:
            self._busy_since = now
            self._listener.unmark(self._queue_id)
        self._rounds = 0

    async def wait(self, ended: asyncio.Event) -> None:
        """Wait until something was sent, or a little while, or until this event is set."""
        self._waits += 1
        self._rounds += 1
        told = await self._can_be_told()
        seconds = min(_FIRST_SECONDS * 2 ** (self._rounds - 1), _LAST_SECONDS) if told else _FIRST_SECONDS
        seconds *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads polls, hides nothing
        waits = [asyncio.ensure_future(event.wait()) for event in (self._told, ended)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._told.is_set():
            # Cleared before the next question: what is sent from now on is told again.
            self._told.clear()
            self._rounds = 1

    async def _can_be_told(self) -> bool:
        """Whether the queue is marked and somebody listens, so that a longer sleep is safe."""
        if self._waits >= _LISTEN_FROM_WAIT:
            self._listener.want()
        if not self._listener.hears:
            return False
        found = await self._listener.mark(self._worker_id, self._queue_id)
        if found is not None and self._queue_id is None:
            self._queue_id = found
            self._listener.subscribe(found, self._told)
        return found is not None

    def close(self) -> None:
        """Wait no more."""
        if self._queue_id is not None:
            self._listener.unsubscribe(self._queue_id, self._told)
