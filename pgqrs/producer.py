"""Sending messages."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from pgqrs import app_connections, arguments, errors, payloads, queues, tracing
from pgqrs.batches import Batch, settled
from pgqrs.grouping import Entry, Grouping
from pgqrs.names import shown
from pgqrs.payloads import headers as written_headers
from pgqrs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqrs.admin import Admin
    from pgqrs.app_connections import AppConnection
    from pgqrs.models import MessageId
    from pgqrs.payloads import Codec

_NO_DELAY = timedelta()
#: More than fits into a value of PostgreSQL.
_MAX_PAYLOAD_BYTES = 2**31 - 1
#: What PostgreSQL says of the messages themselves; the last is a rule of the app's own, such as a check.
_NOT_STORABLE = (asyncpg.DataError, asyncpg.ProgramLimitExceededError, asyncpg.IntegrityConstraintViolationError)


class Producer(Worker):
    """A worker that sends messages to its queue.

    Example:
        ```python
        async with pgqrs.Producer("postgresql://localhost/mydb", "emails") as producer:
            await producer.enqueue({"to": "ada@example.com"}, delay=timedelta(minutes=5))
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
        max_payload_bytes: int | None = None,
    ) -> None:
        """Remember what to register; see `Worker` for what stands in for an argument that is not given.

        Args:
            database: a DSN, or an `Admin` whose connections are shared.
            queue: the queue's name.
            host: the first half of the worker's identity.
            port: the second half.
            replace: take the identity even from a worker that is alive.
            codec: writes payloads.
            max_payload_bytes: the largest payload, in bytes of its JSON; `PGQRS_MAX_PAYLOAD_BYTES` or 1 MiB if not
                given.

        Raises:
            ConfigurationError: there is no DSN or no queue, neither given nor in the environment.
            ValidationError: an argument is not allowed.
        """
        super().__init__(database, queue, host, port, replace=replace)
        self._codec = payloads.check_codec(codec)
        self._max_payload_bytes = (
            self._settings.max_payload_bytes
            if max_payload_bytes is None
            else arguments.whole_number("max_payload_bytes", max_payload_bytes, most=_MAX_PAYLOAD_BYTES)
        )
        self._grouping = Grouping(self._insert_group)

    async def enqueue(
        self,
        payload: Any,
        *,
        delay: timedelta = _NO_DELAY,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        connection: AppConnection | None = None,
    ) -> MessageId:
        """Send one message; when this returns, it is committed, or part of the transaction of `connection`.

        Example:
            ```python
            async with connection.transaction():
                await save_order(connection, 7)
                await producer.enqueue({"order": 7}, key="order-7", connection=connection)
            ```

        Args:
            payload: anything that JSON can say.
            delay: how long nobody gets to see it.
            key: where a live message of this queue has this key, none is added, and the id of that one comes back. A
                message that is deleted or dead leaves its key to the next one, and so does one that is archived, at
                once or after the time that the queue's `deduplication_window` says.
            headers: what is said beside the payload, such as the context of a trace.
            connection: the app's own asyncpg connection to the same database; the message commits and rolls back with
                what else is done there.

        Raises:
            ValidationError: JSON cannot say the payload, PostgreSQL cannot store it, it is too large, the delay is
                negative, or another argument is not allowed.
            QueueNotFoundError: the queue was deleted.
            WorkerNotReadyError: this producer was closed.
        """
        _check_connection(connection)
        entry = Entry(
            payloads.encode(payload, self._codec, limit=self._max_payload_bytes),
            0.0 if delay is _NO_DELAY else arguments.seconds("delay", delay),
            payloads.headers(tracing.inject(headers)),
        )
        checked_key = payloads.key(key)
        worker_id = await self.start()
        if connection is None and checked_key is None:
            return await self._grouping.add(entry)
        # A key may have to wait for whoever else sends it in a long transaction, and must not make others wait.
        batch = Batch(worker_id, [entry.text], [entry.delay], [entry.headers], [checked_key])
        return (await self._insert(batch, connection))[0]

    async def enqueue_batch(
        self,
        payloads: Sequence[Any],
        *,
        delay: timedelta = _NO_DELAY,
        keys: Sequence[str | None] | None = None,
        headers: Mapping[str, Any] | None = None,
        connection: AppConnection | None = None,
    ) -> list[MessageId]:
        """Send several messages, all or none, in this order.

        Args:
            payloads: each of them anything that JSON can say.
            delay: how long nobody gets to see them.
            keys: for each payload its deduplication key or None; see `enqueue`.
            headers: what is said beside each of the payloads.
            connection: the app's own asyncpg connection; see `enqueue`.

        Returns:
            For each payload the id of its message, or of the earlier one that has its key.

        Raises:
            ValidationError: JSON cannot say one of them, PostgreSQL cannot store it, it is too large (the message tells
                which), the delay is negative, or another argument is not allowed.
            QueueNotFoundError: the queue was deleted.
            WorkerNotReadyError: this producer was closed.
        """
        _check_connection(connection)
        texts = _encode_all(payloads, self._codec, self._max_payload_bytes)
        batch = Batch(
            await self.start(),
            texts,
            [arguments.seconds("delay", delay)] * len(texts),
            [written_headers(tracing.inject(headers))] * len(texts),
            _check_keys(keys, len(texts)),
        )
        return await self._insert(batch, connection) if texts else []

    async def aclose(self) -> None:
        """End cleanly; see `Worker.aclose`. What is being sent may or may not be added, and whoever waits is told."""
        await self._grouping.aclose()
        await super().aclose()

    async def _insert(self, batch: Batch, connection: AppConnection | None) -> list[MessageId]:
        async def insert(queue_id: int) -> list[MessageId]:
            if connection is not None:
                return await app_connections.insert(self._db, connection, queue_id, batch)
            if not batch.keyed:
                return await batch.insert(self._db.fetch, queue_id)
            if len(batch.texts) == 1:
                return await batch.insert_all(self._db.fetch, queue_id)
            async with self._db.transaction() as transaction:
                return await batch.insert_all(transaction.fetch, queue_id)

        return await self._insert_into_queue(functools.partial(settled, insert))

    async def _insert_group(self, entries: list[Entry]) -> list[MessageId]:
        batch = Batch(
            self.worker_id,
            [entry.text for entry in entries],
            [entry.delay for entry in entries],
            [entry.headers for entry in entries],
            [None] * len(entries),
        )
        return await self._insert_into_queue(functools.partial(batch.insert, self._db.fetch))

    async def _insert_into_queue(self, insert: Callable[[int], Awaitable[list[MessageId]]]) -> list[MessageId]:
        """Add messages to the queue that has our name now."""
        for again in (False, True):
            # The second time: the queue was deleted since we looked; another one may have its name by now.
            if again or self._queue_info is None:
                self._queue_info = await queues.get(self._db, self.queue)
            try:
                found = await insert(self._queue_info.id)
            except errors.DatabaseError as error:
                if isinstance(error.__cause__, _NOT_STORABLE):
                    message = f"PostgreSQL cannot store what was sent: {error.__cause__}; nothing was added."
                    raise errors.ValidationError(message) from error
                raise
            if found:
                return found
        message = f"Queue {self.queue!r} was deleted while messages were sent to it; none of them was added."
        raise errors.QueueNotFoundError(message)


def _encode_all(values: Sequence[Any], codec: Codec, limit: int) -> list[str]:
    if isinstance(values, str | bytes | bytearray | Mapping) or not isinstance(values, Sequence):
        message = f"The payloads are {type(values).__name__}; they are a list. To send one message, call enqueue()."
        raise errors.ValidationError(message)
    return [
        payloads.encode(value, codec, what=f"Payload {position}", limit=limit) for position, value in enumerate(values)
    ]


def _check_keys(keys: Sequence[str | None] | None, count: int) -> list[str | None]:
    if keys is None:
        return [None] * count
    if isinstance(keys, str) or not isinstance(keys, Sequence) or len(keys) != count:
        message = f"The keys are {shown(keys)} for {count} payloads; give a list with a key or None for each of them."
        raise errors.ValidationError(message)
    return [payloads.key(key) for key in keys]


def _check_connection(connection: AppConnection | None) -> None:
    if connection is not None:
        app_connections.check(connection)
