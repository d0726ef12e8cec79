"""The loop behind `Consumer.run`: leases, calls handlers, completes.

One coroutine talks to the database. What handlers ended meanwhile goes with the next round trip, which also leases the
next messages; nothing waits for a full batch, so a single message is completed at once and a flood in hundreds. A crash
between a handler's end and that round trip makes the message come again; nothing else does.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pgqrs import arguments, errors, lifecycle, measures, payloads, rows
from pgqrs.fetching import MAX_FETCH, Cursor, Prefetch
from pgqrs.leases import Failure, Leases
from pgqrs.listener import Waiter
from pgqrs.models import WORKING, WorkerStatus

if TYPE_CHECKING:
    from pgqrs.backoff import Backoff
    from pgqrs.database import Database, Record
    from pgqrs.handlers import Calls
    from pgqrs.leases import Share
    from pgqrs.models import Message, WorkerId
    from pgqrs.payloads import Codec

logger = logging.getLogger(__name__)

#: How long what has ended may wait for company, in seconds: while there is nothing to lease, and otherwise.
_FLUSH_SECONDS = 0.008
_FLUSH_WITH_LEASE_SECONDS = 0.03
#: How often leases are looked after, in seconds.
_KEEP_SECONDS = 1.0
#: The same for the first time, when it may not be known yet how long they are.
_FIRST_KEEP_SECONDS = 0.1
#: What was leased ahead and is not begun by then is somebody else's chance, in seconds.
_STALE_SECONDS = 2.0
#: After a failure of the database, in seconds.
_RETRY_FIRST_SECONDS = 0.1
_RETRY_LAST_SECONDS = 2.0
#: How long handlers that are cancelled have to end, in seconds.
_CANCEL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `Consumer.run` was told."""

    concurrency: int
    #: The most messages of one call of the handler; None where it takes a single one.
    batch_size: int | None
    #: Whether messages that are done are kept.
    archive: bool
    #: Seconds; None for the queue's own.
    lease: float | None
    #: None for the queue's own.
    backoff: Backoff | None


class Runner:
    """One run of a consumer."""

    def __init__(
        self, db: Database, worker_id: WorkerId, *, share: Share, calls: Calls, options: Options, codec: Codec
    ) -> None:
        self._db = db
        self._worker_id = worker_id
        self._draining = share.draining
        self._calls = calls
        self._call = calls.call
        self._batched = options.batch_size is not None
        self._options = options
        self._codec = codec
        self._measures = measures.of(share.queue)
        self._leases = Leases(db, worker_id, share, self._measures, archive=options.archive, lease=options.lease)
        self._waiter = Waiter(db.listener, worker_id)
        self._prefetch = Prefetch()
        #: With how many messages in the buffer the next ones are leased.
        self._low = 0
        self._cursor = Cursor()
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[Message] = deque()
        #: How many messages each handler that runs has.
        self._running: dict[asyncio.Task[None], int] = {}
        self._stir = asyncio.Event()
        #: Whether there may be messages to lease; otherwise `_idle` waits for them.
        self._hungry = True
        self._idle: asyncio.Task[None] | None = None
        self._paused = False
        self._replaced = False
        #: Whether it drained when it was replaced or stopped; then that is how it ends.
        self._drained = False
        self._ended = False
        self.over = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._end_by_time: asyncio.TimerHandle | None = None
        self._changed_at = 0.0
        self._retry_at = 0.0
        self._retry_seconds = _RETRY_FIRST_SECONDS
        calls.when_free(self._begin)

    async def run(self) -> None:
        """Work until the consumer drains and nothing is left to do.

        Raises:
            WorkerReplacedError: the worker was stopped or replaced, and did not drain.
            DatabaseError: PostgreSQL refuses what we ask for.
        """
        tasks = [
            self._loop.create_task(self._work(), name="pgqrs-run"),
            self._loop.create_task(self._keep(), name="pgqrs-keep-leases"),
        ]
        self._main = tasks[0]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                await self._end(tasks)
            finally:
                self.over.set()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if self._replaced and not self._drained:
            message = f"Worker {self._worker_id} was stopped or replaced; make a new Consumer to go on working."
            raise errors.WorkerReplacedError(message)

    async def _work(self) -> None:
        while not self._is_over():
            seconds = self._seconds_to_wait()
            if seconds is None or seconds > 0:
                await self._wait(seconds)
            else:
                await self._exchange()

    def drain(self, seconds: float) -> None:
        """Begin nothing any more, and end when what was begun has ended, or after so many seconds."""
        if self._end_by_time is None:
            # Also out of a call that the database does not answer.
            self._end_by_time = self._loop.call_later(seconds, self._interrupt)
        self._stir.set()

    def end(self) -> None:
        """End now: handlers are cancelled, and what they held is given back; `over` tells when that is done."""
        self._ended = True
        self._interrupt()

    def _interrupt(self) -> None:
        if self._main is not None and self._main is not asyncio.current_task():
            self._main.cancel()

    def state_changed(self, status: WorkerStatus | None, *, asked_at: float | None = None) -> None:
        """Take what the worker's row says.

        Args:
            status: its state; None where it is gone.
            asked_at: when this was asked for, by the loop's clock, where somebody else may have told of a later state
                meanwhile.
        """
        if status is None or status is WorkerStatus.STOPPED:
            if not self._replaced:
                self._replaced, self._drained = True, self._draining.is_set()
            self._interrupt()
            return
        if asked_at is not None and asked_at < self._changed_at:
            return
        paused = status not in WORKING
        if paused is not self._paused:
            self._paused, self._hungry, self._changed_at = paused, True, self._loop.time()
            self._stir.set()

    def _is_over(self) -> bool:
        if self._ended or self._replaced:
            return True
        if self._draining.is_set() or self._paused:
            self._give_back_buffer()
        return self._draining.is_set() and not self._running and self._leases.first_outcome_at is None

    # What is to be done next.

    def _places(self) -> int:
        return self._options.concurrency - len(self._running) - self._calls.abandoned

    def _wanted(self) -> int:
        """How many messages may be leased now."""
        if self._draining.is_set() or self._paused:
            return 0
        room = self._places() * (self._options.batch_size or 1) + self._prefetch.ahead - len(self._buffer)
        return max(0, min(room, MAX_FETCH))

    def _seconds_to_wait(self) -> float | None:
        """How long nothing is to be said to the database; None until something happens."""
        now = self._loop.time()
        if now < self._retry_at:
            return self._retry_at - now
        if self._hungry and len(self._buffer) <= self._low and self._wanted():
            return 0
        outcome_at = self._leases.first_outcome_at
        if outcome_at is None:
            return None
        if not self._running and not self._buffer:
            return 0
        most = _FLUSH_WITH_LEASE_SECONDS if self._hungry and self._buffer else _FLUSH_SECONDS
        return outcome_at + most - now

    async def _wait(self, seconds: float | None) -> None:
        timer = None if seconds is None else self._loop.call_later(seconds, self._stir.set)
        try:
            await self._stir.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._stir.clear()

    # Messages and their handlers.

    def _begin(self) -> None:
        """Call handlers while there are messages and places."""
        if self._ended or self._replaced or self._paused or self._draining.is_set():
            return
        buffer, running = self._buffer, self._running
        most = len(running) + self._places()
        while buffer and len(running) < most:
            messages = [buffer.popleft()]
            if self._batched:
                rest = min(self._options.batch_size or 1, len(buffer) + 1) - 1
                messages.extend(buffer.popleft() for _ in range(rest))
            running[self._loop.create_task(self._handle(messages), name="pgqrs-handler")] = len(messages)
            self._prefetch.begun += len(messages)
            self._measures.in_flight += len(messages)
        if len(buffer) <= self._low:
            self._stir.set()

    async def _handle(self, messages: list[Message]) -> None:
        began = self._loop.time()
        try:
            await self._call(messages if self._batched else messages[0])
        except asyncio.CancelledError:
            if self._ended or (self._main is not None and self._main.cancelling()):
                # The run ends, or the whole loop, and gives back what it holds.
                raise
            # Nobody cancelled us, so the handler let a cancellation of its own out; that is a failure like others.
            self._fail(messages, errors.PgqrsError("the handler was cancelled"))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Whatever it is, it is this message's trouble alone. `sys.exit` also ends the process, and would end every
            # one that is handed the message if it did not count.
            self._fail(messages, error)
            if isinstance(error, SystemExit):
                raise
        else:
            self._announce()
            self._leases.complete(messages)
        finally:
            self._measures.handling.add(self._loop.time() - began)
            self._leave(asyncio.current_task())
            self._begin()

    def _leave(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            self._measures.in_flight -= self._running.pop(task, 0)
        if not (self._running or self._buffer):
            self._stir.set()

    def _announce(self) -> None:
        """Let the first outcome since the last exchange start the time after which it is told."""
        if self._leases.first_outcome_at is None:
            self._stir.set()

    def _fail(self, messages: list[Message], error: BaseException) -> None:
        self._announce()
        self._measures.failed += len(messages)
        reason = payloads.printable(_describe(error))
        backoff = self._options.backoff
        for message in messages:
            delay = backoff.seconds(message.read_ct) if backoff else None
            if isinstance(error, errors.DeadLetter):
                delay = math.inf
            elif isinstance(after := getattr(error, "after", None), timedelta) and isinstance(error, errors.Retry):
                delay = min(after, arguments.MAX_DURATION).total_seconds()
            self._leases.fail([Failure(message.id, delay, reason)])
            logger.warning(
                "handler failed",
                # Null: never, or when the queue says.
                extra={
                    "message_id": message.id,
                    "attempt": message.read_ct,
                    "retry_seconds": None if delay == math.inf else delay,
                },
                exc_info=None if isinstance(error, errors.Verdict) else error,
            )

    def _give_back_buffer(self) -> None:
        if self._buffer:
            self._leases.give_back([message.id for message in self._buffer])
            self._buffer.clear()
            # What was learned led to too many; handlers show anew how fast they are.
            self._prefetch = Prefetch()
            self._low = 0

    # The database.

    async def _exchange(self) -> None:
        """Complete what has ended, lease what there is room for."""
        limit = self._wanted() if self._hungry else 0
        began = self._loop.time()
        since = self._cursor.begin(began)
        try:
            found = await self._leases.exchange(limit, since)
        except errors.DatabaseUnavailableError as error:
            logger.warning("database lost, trying again", extra={"worker_id": self._worker_id, "error": str(error)})
            self._retry_at = self._loop.time() + self._retry_seconds
            self._retry_seconds = min(self._retry_seconds * 2, _RETRY_LAST_SECONDS)
            return
        self._retry_seconds = _RETRY_FIRST_SECONDS
        if found is None:
            return
        self.state_changed(WorkerStatus(found[0]["worker_status"]) if found else None, asked_at=began)
        if found and limit:
            self._learn(found, limit, began, whole=since is None)
            self._fill_buffer(found)
        self._begin()

    def _learn(self, found: list[Record], limit: int, began: float, *, whole: bool) -> None:
        ended = self._loop.time()
        count = len(found) - 1
        self._prefetch.learn(began, ended)
        self._low = self._prefetch.ahead // 2
        seen = found[-1]["visible_since"]
        # Dead letters are no messages, but a sign that there may be more.
        full = count + found[0]["dead"] == limit
        self._cursor.learn(whole=whole, full=full, ended=ended, took=ended - began, count=count, seen=seen)
        if count or full:
            self._waiter.found()
        self._hungry = full
        if not self._hungry and self._idle is None:
            self._idle = self._loop.create_task(self._wait_for_messages(), name="pgqrs-idle")

    def _fill_buffer(self, found: list[Record]) -> None:
        messages, unreadable = rows.messages(found, self._worker_id, self._codec.loads)
        self._buffer.extend(messages)
        if unreadable:
            self._leases.fail([Failure(message_id, math.inf, reason) for message_id, reason in unreadable.items()])
        if messages:
            leased_at = found[0]["vt"] - timedelta(seconds=found[0]["lease_seconds"])
            for row in found[1:]:
                self._measures.waiting.add((leased_at - row["visible_since"]).total_seconds())

    async def _wait_for_messages(self) -> None:
        try:
            await self._waiter.wait(self._draining)
        finally:
            self._idle = None
            self._hungry = True
            self._stir.set()

    async def _keep(self) -> None:
        """Renew the leases of what is being handled, and give back what nobody comes round to."""
        pause = _FIRST_KEEP_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = min(_KEEP_SECONDS, self._leases.seconds / 4)
            if self._buffer and self._leases.age(self._buffer[0].id) > _STALE_SECONDS:
                self._give_back_buffer()
            try:
                status = await self._leases.renew()
                if status is None and self._paused:
                    status = await lifecycle.status(self._db, self._worker_id)
                if status is not None:
                    self.state_changed(status)
            except errors.WorkerNotFoundError:
                self.state_changed(None)
            except errors.PgqrsError as error:
                logger.warning("leases not renewed", extra={"worker_id": self._worker_id, "error": str(error)})
            self._stir.set()

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        """Cancel what runs, say what became of it, and give the rest back; all of it takes a bounded time."""
        self._ended = True
        if self._end_by_time is not None:
            self._end_by_time.cancel()
        everything = [*self._running, *tasks, *([self._idle] if self._idle is not None else [])]
        for task in everything:
            task.cancel()
        try:
            _, stubborn = await asyncio.wait(everything, timeout=_CANCEL_SECONDS)
            if stubborn:
                logger.warning("handlers do not end when cancelled", extra={"count": len(stubborn)})
            if not self._replaced:
                await self._leases.say_goodbye()
        finally:
            # Those that were cancelled before they began could not say so.
            for task in list(self._running):
                self._leave(task)
            self._waiter.close()
            self._calls.close()
            self._leases.forget_all()


def _describe(error: BaseException) -> str:
    try:
        if isinstance(error, errors.DeadLetter):
            return error.reason
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception of the app's own may not even say what it is
        return type(error).__name__
