"""Receiving messages: leased, handled, archived, or given back."""

from __future__ import annotations

import contextlib
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from pgqrs import arguments, errors, metrics, payloads, rows, tracing
from pgqrs.backoff import Backoff
from pgqrs.draining import DEFAULT_DRAIN, drain
from pgqrs.handlers import Calls, check_callables
from pgqrs.interruption import Interruption
from pgqrs.leases import Share
from pgqrs.listener import Waiter
from pgqrs.models import MessageId, WorkerStatus
from pgqrs.runner import Options, Runner
from pgqrs.signals import taken
from pgqrs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pgqrs.admin import Admin
    from pgqrs.handlers import Handler, Middleware
    from pgqrs.models import Message, WorkerId
    from pgqrs.payloads import Codec

logger = logging.getLogger(__name__)


class Consumer(Worker):
    """A worker that receives the messages of its queue.

    Example:
        ```python
        async with pgqrs.Consumer("postgresql://localhost/mydb", "emails") as consumer:
            async for message in consumer:
                await send_email(message.payload)
                await consumer.archive(message.id)
        ```
    """

    def __init__(
        self,
        database: str | Admin | None = None,
        queue: str | None = None,
        host: str | None = None,
        port: int | None = None,
        *,
        replace: bool = False,
        codec: Codec = payloads.DEFAULT_CODEC,
    ) -> None:
        """Remember what to register; see `Worker` for what stands in for an argument that is not given.

        Args:
            database: a DSN, or an `Admin` whose connections are shared.
            queue: the queue's name.
            host: the first half of the worker's identity.
            port: the second half.
            replace: take the identity even from a worker that is alive.
            codec: reads payloads.

        Raises:
            ConfigurationError: there is no DSN or no queue, neither given nor in the environment.
            ValidationError: an argument is not allowed.
        """
        super().__init__(database, queue, host, port, replace=replace)
        self._runner: Runner | None = None
        self._codec = payloads.check_codec(codec)

    async def dequeue(self, limit: int = 1, *, lease: timedelta | None = None) -> list[Message]:
        """Lease up to `limit` messages, oldest first; none while the worker or the queue is paused.

        Args:
            limit: the most messages, 1 to 10,000.
            lease: for how long they are this worker's alone; the queue's lease duration if not given.

        Raises:
            WorkerReplacedError: the worker was stopped or replaced.
            ValidationError: the limit is out of range, or the lease is not more than zero.
        """
        arguments.batch_size(limit)
        seconds = None if lease is None else arguments.seconds("lease", lease, positive=True)
        return (await self._dequeue(limit, seconds))[0]

    async def _dequeue(self, limit: int, seconds: float | None) -> tuple[list[Message], bool]:
        """Lease messages, and tell whether there may be more; dead letters that were met are none, but a sign of it."""
        worker_id = await self.start()
        if self.draining:
            return [], False
        found = await self._db.fetch("messages.dequeue", worker_id, limit, seconds, None)
        self._check_alive(found[0]["worker_status"] if found else None)
        messages, unreadable = rows.messages(found, worker_id, self._codec.loads)
        self._held.update(message.id for message in messages)
        for message_id, reason in unreadable.items():
            await self._give_up(message_id, reason)
        return messages, len(found) - 1 + found[0]["dead"] == limit

    async def _give_up(self, message_id: MessageId, reason: str) -> None:
        """Dead-letter a message that cannot be read: it would fail every time, and take its batch with it."""
        try:
            await self.dead_letter(message_id, reason)
        except errors.DatabaseError as trouble:
            # Its lease runs out, and it comes here again.
            logger.warning("unreadable message not given up", extra={"message_id": message_id, "error": str(trouble)})

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Give messages one by one until the worker is told to drain; while it is suspended, wait."""
        waiter = Waiter(self._db.listener, await self.start())
        try:
            while not self.draining:
                messages, more = await self._dequeue(1, None)
                if more:
                    waiter.found()
                else:
                    await waiter.wait(self._draining)
                for message in messages:
                    yield message
        except errors.PgqrsError:
            # Beside a call under way the row may be stopped already, or the connections be gone.
            if not self._closed:
                raise
        finally:
            waiter.close()

    async def run(
        self,
        handler: Handler,
        *,
        concurrency: int = 10,
        batch_size: int | None = None,
        archive: bool = True,
        lease: timedelta | None = None,
        time_limit: timedelta | None = None,
        backoff: Backoff | None = None,
        middleware: Sequence[Middleware] = (),
        drain_timeout: timedelta = DEFAULT_DRAIN,
        signals: bool = True,
    ) -> None:
        """Handle messages until the worker drains: lease, call the handler, archive; try again what fails.

        The handler is called with a message. Where it returns, the message is archived; where it raises, it is tried
        again after a back-off, and becomes a dead letter when it was leased as often as the queue's `read_limit` says.
        It may raise `Retry` or `DeadLetter` to decide that itself. Leases are renewed while handlers run. Returns when
        the worker has drained: SIGTERM or SIGINT came, the pod ends, or `drain()` was called; a second signal cancels
        what runs and gives back what is held.

        Example:
            ```python
            async def send(message):
                await send_email(message.payload)

            async with pgqrs.Consumer("postgresql://localhost/mydb", "emails") as consumer:
                await consumer.run(send, concurrency=50)
            ```

        Args:
            handler: what to do with a message; awaited, or called in a thread where it is a plain function.
            concurrency: how many handlers run at a time.
            batch_size: call the handler with a list of up to so many messages, which succeed or fail together.
            archive: keep messages that are done; False deletes them.
            lease: for how long messages are this worker's alone; renewed in time. The queue's if not given.
            time_limit: how long a call of the handler may take. A plain function goes on in its thread even so, and
                keeps its place.
            backoff: when what failed is tried again; as the queue's policy says if not given.
            middleware: what stands around each call of the handler, the outermost first.
            drain_timeout: how long a drain by a signal waits for handlers, before it cancels them.
            signals: whether SIGTERM and SIGINT are taken while this runs; in the main thread only.

        Raises:
            WorkerReplacedError: the worker was stopped or replaced from outside.
            WorkerNotReadyError: the consumer was closed.
            ValidationError: an argument is not allowed.
            DatabaseError: PostgreSQL refuses what is asked for; while it cannot be reached this waits and goes on.
        """
        options = Options(
            concurrency=arguments.whole_number("concurrency", concurrency, most=10_000),
            batch_size=None if batch_size is None else arguments.whole_number("batch_size", batch_size, most=10_000),
            archive=arguments.flag("archive", archive),
            lease=None if lease is None else arguments.seconds("lease", lease, positive=True),
            backoff=None if backoff is None else arguments.instance("backoff", backoff, Backoff),
        )
        limit = None if time_limit is None else arguments.seconds("time_limit", time_limit, positive=True)
        drain_seconds = arguments.seconds("drain_timeout", drain_timeout)
        arguments.flag("signals", signals)
        check_callables("handler", [handler])
        check_callables("middleware", middleware)
        worker_id = await self.start()
        if self._runner is not None:
            message = f"{self!r} runs already; make a Consumer for each run, or raise the concurrency."
            raise errors.WorkerNotReadyError(message)
        metrics.register()
        spans = tracing.spans(self.queue)
        calls = Calls(
            handler,
            middleware=[*([spans] if spans else []), *middleware],
            time_limit=limit,
        )
        share = Share(self.queue, self._held, self._draining, self._report_drained)
        self._runner = runner = Runner(
            self._db, worker_id, share=share, calls=calls, options=options, codec=self._codec
        )
        interruption = Interruption(self._db, worker_id, self._draining, runner, drain_seconds)
        try:
            with taken(interruption.heard) if signals else contextlib.nullcontext():
                await runner.run()
        finally:
            self._runner = None
            await interruption.aclose()
        if interruption.drains:
            await self._stop_drained(worker_id)

    async def _stop_drained(self, worker_id: WorkerId) -> None:
        try:
            await drain(self._db, worker_id, timedelta(), reason="drained")
        except errors.PgqrsError as error:
            # The process ends all the same; the row is left to the sidecar, or to the reaper.
            logger.warning("row not stopped", extra={"worker_id": worker_id, "error": str(error)})

    async def drain(self, timeout: timedelta = DEFAULT_DRAIN) -> int:
        """Fetch no more, let what is leased be finished, then suspend and stop; a run ends with it.

        Args:
            timeout: how long to wait for leased messages; what is left then is released for others.

        Returns:
            How many messages had to be released.

        Raises:
            ValidationError: the timeout is no duration, or negative.
        """
        released = await super().drain(timeout)
        # Handlers whose messages were released have no business any more.
        self._state_seen(WorkerStatus.STOPPED)
        return released

    async def aclose(self) -> None:
        """End cleanly: a run and iterations end, the row is stopped and whatever it still holds is free for others."""
        if self._runner is not None:
            self._runner.end()
            await self._runner.over.wait()
        await super().aclose()

    def drain_requested(self, seconds: float) -> None:
        """Take the sidecar's word that the pod ends."""
        if self._runner is not None:
            self._runner.drain(seconds)
        super().drain_requested(seconds)

    def state_changed(self, status: WorkerStatus) -> None:
        """Take the sidecar's word that somebody changed the row."""
        # Before the worker is marked as draining, which a stopped one is.
        self._state_seen(status)
        super().state_changed(status)

    def _state_seen(self, status: WorkerStatus) -> None:
        if self._runner is not None:
            self._runner.state_changed(status)

    async def archive(self, message_id: int) -> bool:
        """Say that a message is done; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
        """
        return (await self.archive_many([message_id]))[0]

    async def archive_many(self, message_ids: Sequence[int]) -> list[bool]:
        """Say that messages are done; for each whether it still was this worker's.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
        """
        return await self._finish("messages.archive", message_ids)

    async def delete(self, message_id: int) -> bool:
        """Remove a message that is done without keeping it; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
        """
        return (await self.delete_many([message_id]))[0]

    async def delete_many(self, message_ids: Sequence[int]) -> list[bool]:
        """Remove messages that are done without keeping them; for each whether it still was this worker's.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
            ValidationError: one of them is no id.
        """
        return await self._finish("messages.delete", message_ids)

    async def release(self, message_id: int, *, delay: timedelta | None = None) -> bool:
        """Give a message back, for others to see at once or after a delay; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
            ValidationError: it is no id, or the delay is negative.
        """
        return (await self.release_many([message_id], delay=delay))[0]

    async def release_many(self, message_ids: Sequence[int], *, delay: timedelta | None = None) -> list[bool]:
        """Give messages back, for others to see at once or after a delay; for each whether it still was this worker's.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
            ValidationError: one of them is no id, or the delay is negative.
        """
        seconds = 0.0 if delay is None else arguments.seconds("delay", delay)
        return await self._finish("messages.release", message_ids, seconds)

    async def dead_letter(self, message_id: int, reason: str) -> bool:
        """Put a message that can never succeed aside, with the reason; False when it was no longer this worker's.

        Nobody is handed it again until it is replayed (`Messages.replay`).

        Args:
            message_id: the message.
            reason: why, for those who read the list of dead letters; cut at 4,000 characters.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
            ValidationError: it is no id, or the reason is blank.
        """
        return (await self.dead_letter_many([message_id], reason))[0]

    async def dead_letter_many(self, message_ids: Sequence[int], reason: str) -> list[bool]:
        """Put messages that can never succeed aside; for each whether it still was this worker's.

        Args:
            message_ids: the messages.
            reason: why, for those who read the list of dead letters; cut at 4,000 characters.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
            ValidationError: one of them is no id, or the reason is blank.
        """
        return await self._finish("messages.dead_letter", message_ids, payloads.reason(reason))

    async def extend(self, message_id: int, duration: timedelta) -> bool:
        """Lengthen a message's lease by a duration; False when it was no longer this worker's.

        Raises:
            WorkerReplacedError: it was not, because this worker was stopped or replaced.
            ValidationError: it is no id, or the duration is not more than zero.
        """
        return (await self.extend_many([message_id], duration))[0]

    async def extend_many(self, message_ids: Sequence[int], duration: timedelta) -> list[bool]:
        """Lengthen the leases of messages by a duration; for each whether it still was this worker's.

        Raises:
            WorkerReplacedError: none was, because this worker was stopped or replaced.
            ValidationError: one of them is no id, or the duration is not more than zero.
        """
        seconds = arguments.seconds("duration", duration, positive=True)
        return await self._change("messages.extend", message_ids, seconds)

    async def _finish(self, statement: str, message_ids: Sequence[int], *args: object) -> list[bool]:
        ids = arguments.ids(message_ids)
        done = await self._change(statement, ids, *args)
        self._held.difference_update(map(MessageId, ids))
        self._report_drained()
        return done

    async def _change(self, statement: str, message_ids: Sequence[int], *args: object) -> list[bool]:
        ids = arguments.ids(message_ids)
        row = await self._db.fetch_row(statement, await self.start(), ids, *args)
        done = set(row["ids"]) if row else set()
        if ids and not done:
            self._check_alive(row["worker_status"] if row else None)
        return [message_id in done for message_id in ids]

    def _check_alive(self, status: str | None) -> None:
        if status is None or status == WorkerStatus.STOPPED:
            self._held.clear()
            message = f"Worker {self._worker_id} was stopped or replaced; make a new Consumer to go on working."
            raise errors.WorkerReplacedError(message)
