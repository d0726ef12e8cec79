"""Sending messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pgqrs import errors, payloads, queues, statements
from pgqrs.database import translated
from pgqrs.models import MessageId
from pgqrs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqrs.admin import Admin
    from pgqrs.payloads import Codec

    #: A connection of the app's own, or one lent by its pool.
    AppConnection: TypeAlias = asyncpg.Connection | PoolConnectionProxy
    _Fetch: TypeAlias = Callable[..., Awaitable[list[asyncpg.Record]]]

_NO_DELAY = timedelta()
#: How often a message is sent again because others with its key came and went at the same moments.
_KEY_ATTEMPTS = 50


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
        max_payload_bytes: int = payloads.DEFAULT_MAX_PAYLOAD_BYTES,
    ) -> None:
        """Remember what to register; see `Worker` for what stands in for an argument that is not given.

        Args:
            database: a DSN, or an `Admin` whose connections are shared.
            queue: the queue's name.
            host: the first half of the worker's identity.
            port: the second half.
            replace: take the identity even from a worker that is alive.
            codec: writes payloads.
            max_payload_bytes: the largest payload, in bytes of its JSON; 1 MiB if not given.

        Raises:
            ConfigurationError: there is no DSN or no queue, neither given nor in the environment.
            ValidationError: an argument is not allowed.
        """
        super().__init__(database, queue, host, port, replace=replace)
        if max_payload_bytes < 1:
            message = f"max_payload_bytes is {max_payload_bytes}; it is one or more."
            raise errors.ValidationError(message)
        self._codec = codec
        self._max_payload_bytes = max_payload_bytes

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
                message that is archived, deleted or dead leaves its key to the next one.
            headers: what is said beside the payload, such as the context of a trace.
            connection: the app's own asyncpg connection to the same database; the message commits and rolls back with
                what else is done there.

        Raises:
            ValidationError: JSON cannot say the payload, PostgreSQL cannot store it, it is too large, the delay is
                negative, or another argument is not allowed.
            QueueNotFoundError: the queue was deleted.
            WorkerNotReadyError: this producer was closed.
        """
        text = payloads.encode(payload, self._codec, limit=self._max_payload_bytes)
        return (await self._send([text], delay, [payloads.key(key)], headers, connection))[0]

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
            For each payload the id of its message, or of the live message that has its key.

        Raises:
            ValidationError: JSON cannot say one of them, PostgreSQL cannot store it, it is too large (the message tells
                which), the delay is negative, or another argument is not allowed.
            QueueNotFoundError: the queue was deleted.
            WorkerNotReadyError: this producer was closed.
        """
        texts = _encode_all(payloads, self._codec, self._max_payload_bytes)
        return await self._send(texts, delay, _check_keys(keys, len(texts)), headers, connection)

    async def _send(
        self,
        texts: list[str],
        delay: timedelta,
        keys: list[str | None],
        headers: Mapping[str, Any] | None,
        connection: AppConnection | None,
    ) -> list[MessageId]:
        seconds, written_headers = payloads.seconds("delay", delay), payloads.headers(headers)
        _check_connection(connection)
        worker_id = await self.start()
        if not texts:
            return []
        batch = _Batch(texts, keys, seconds, worker_id, written_headers)
        for again in (False, True):
            # The second time: the queue was deleted since we looked; another one may have its name by now.
            if again or self._queue_info is None:
                self._queue_info = await queues.get(self._db, self.queue)
            try:
                found = await self._insert(connection, self._queue_info.id, batch)
            except errors.DatabaseError as error:
                if isinstance(error.__cause__, asyncpg.DataError):
                    message = f"PostgreSQL cannot store what was sent: {error.__cause__}; nothing was added."
                    raise errors.ValidationError(message) from error
                raise
            if found:
                return found
        message = f"Queue {self.queue!r} was deleted while messages were sent to it; none of them was added."
        raise errors.QueueNotFoundError(message)

    async def _insert(self, connection: AppConnection | None, queue_id: int, batch: _Batch) -> list[MessageId]:
        """Add the messages; an empty list says that there is no such queue."""
        if connection is not None:
            with translated(self._db.where):
                fetch = self._fetch_on(connection)
                if not batch.keyed:
                    return await batch.insert(fetch, queue_id)
                # All or none also where this takes several statements; a savepoint where the app has a transaction.
                async with connection.transaction():
                    return await batch.insert_keyed(fetch, queue_id)
        if not batch.keyed:
            return await batch.insert(self._db.fetch, queue_id)
        if len(batch.texts) == 1:
            return await batch.insert_keyed(self._db.fetch, queue_id)
        async with self._db.transaction() as transaction:
            return await batch.insert_keyed(transaction.fetch, queue_id)

    def _fetch_on(self, connection: AppConnection) -> _Fetch:
        async def fetch(name: str, *args: object) -> list[asyncpg.Record]:
            text = statements.statement(name, self._db.schema)
            return await connection.fetch(text, *args, timeout=self._db.timeout)

        return fetch


@dataclass(frozen=True, slots=True)
class _Batch:
    """Messages that are written and checked, and how they are added."""

    texts: list[str]
    #: For each text its key or None.
    keys: list[str | None]
    delay_seconds: float
    worker_id: int
    headers: str | None

    @property
    def keyed(self) -> bool:
        return any(key is not None for key in self.keys)

    async def insert(self, fetch: _Fetch, queue_id: int) -> list[MessageId]:
        """Add messages without keys."""
        if self.headers is None:
            rows = await fetch("messages.enqueue", queue_id, self.texts, self.delay_seconds, self.worker_id)
        else:
            rows = await self._fetch_keyed(fetch, queue_id, range(len(self.texts)))
        return [MessageId(row["id"]) for row in rows]

    async def insert_keyed(self, fetch: _Fetch, queue_id: int) -> list[MessageId]:
        """Add messages, until each is there or another one of its key is."""
        found: dict[int, MessageId] = {}
        missing: Sequence[int] = range(len(self.texts))
        for _ in range(_KEY_ATTEMPTS):
            rows = await self._fetch_keyed(fetch, queue_id, missing)
            if not rows:
                return []
            ids = zip(missing, rows, strict=True)
            found |= {position: MessageId(row["id"]) for position, row in ids if row["id"] is not None}
            missing = [position for position in missing if position not in found]
            if not missing:
                return [found[position] for position in range(len(self.texts))]
        message = f"Messages of the key {self.keys[missing[0]]!r} come and go too fast to add one; try again."
        raise errors.DatabaseUnavailableError(message)

    async def _fetch_keyed(self, fetch: _Fetch, queue_id: int, positions: Sequence[int]) -> list[asyncpg.Record]:
        texts = [self.texts[position] for position in positions]
        keys = [self.keys[position] for position in positions]
        return await fetch(
            "messages.enqueue_keyed", queue_id, texts, self.delay_seconds, self.worker_id, self.headers, keys
        )


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
    if isinstance(keys, str) or len(keys) != count:
        message = f"There are {len(keys)} keys for {count} payloads; give a list with a key or None for each of them."
        raise errors.ValidationError(message)
    return [payloads.key(key) for key in keys]


def _check_connection(connection: object) -> None:
    if connection is None:
        return
    if not isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
        message = (
            f"connection is {type(connection).__name__}; it is an asyncpg connection. SQLAlchemy has one below: "
            "(await connection.get_raw_connection()).driver_connection."
        )
        raise errors.ValidationError(message)
    if connection.is_closed():
        message = "The connection is closed; nothing can be sent on it. Open one, or leave `connection` out."
        raise errors.ValidationError(message)
