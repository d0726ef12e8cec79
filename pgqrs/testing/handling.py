"""Runs a handler on real messages and tells what became of them."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgqrs import errors
from pgqrs.admin import Admin
from pgqrs.consumer import Consumer
from pgqrs.handlers import Calls
from pgqrs.models import QueuePolicy
from pgqrs.producer import Producer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pgqrs.models import Message, MessageId

#: Longer than a test lasts: nothing comes back while its handler runs.
_LEASE = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A message that the handler failed on, and the exception that it raised the last time.

    Example:
        ```python
        (failure,) = handled.released
        assert isinstance(failure.error, ConnectionError)
        ```
    """

    message: Message
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What became of the messages, each in the order in which it came to rest.

    Example:
        ```python
        assert [message.payload for message in handled.archived] == ["a", "b"]
        assert handled.released == ()
        ```
    """

    #: The handler returned.
    archived: tuple[Message, ...]
    #: The handler raised, each time that it was tried; they are on the queue again, or dead letters if they reached
    #: the read limit.
    released: tuple[Failure, ...]


async def handle(
    handler: Callable[[Message], Any],
    payloads: Sequence[Any],
    *,
    database: str | Admin,
    queue: str | None = None,
    attempts: int = 1,
) -> Handled:
    """Send these payloads, run the handler on what arrives, one after the other, and say what became of it.

    A message is archived when the handler returns, and released when it raises, as a consumer would do it. A plain
    function runs in a thread.

    Args:
        handler: what the app does with a message; a function, or one that is awaited.
        payloads: one message each, sent in this order; anything that JSON can say.
        database: the DSN of a database with the tables, such as the fixture `pgqrs_dsn`, or an `Admin`.
        queue: the queue's name, which is made if it is not there (what waits in it is handled too); if not given, a
            new one with a name of its own.
        attempts: how often a message on which the handler raises is tried, at least once; the queue's read limit
            ends it sooner.

    Raises:
        ValidationError: a payload cannot be sent, or there are no attempts.

    Example:
        ```python
        async def test_mail_is_sent(pgqrs_dsn):
            handled = await pgqrs.testing.handle(send_email, [{"to": "a@example.com"}], database=pgqrs_dsn)
            assert len(handled.archived) == 1
        ```
    """
    if attempts < 1:
        message = f"attempts is {attempts}; a message is tried at least once."
        raise errors.ValidationError(message)
    async with AsyncExitStack() as stack:
        admin = database if isinstance(database, Admin) else await stack.enter_async_context(Admin(database))
        name = queue or f"test-{secrets.token_hex(8)}"
        policy = QueuePolicy(read_limit=max(attempts, QueuePolicy().read_limit))
        try:
            await admin.create_queue(name, policy)
        except errors.QueueAlreadyExistsError:
            if queue is None:
                raise
        producer = await stack.enter_async_context(Producer(admin, name))
        consumer = await stack.enter_async_context(Consumer(admin, name))
        await producer.enqueue_batch(payloads)
        archived: list[Message] = []
        failed: dict[MessageId, Failure] = {}
        calls = Calls(handler, middleware=(), time_limit=None)
        stack.callback(calls.close)
        for _ in range(attempts):
            await _round(consumer, calls, archived, failed)
        return Handled(archived=tuple(archived), released=tuple(failed.values()))


async def _round(consumer: Consumer, calls: Calls, archived: list[Message], failed: dict[MessageId, Failure]) -> None:
    """Handle everything that waits once; what fails stays leased until then, or it would come back at once."""
    held: list[MessageId] = []
    while found := await consumer.dequeue(lease=_LEASE):
        for message in found:
            try:
                await calls.call(message)
            except Exception as error:  # noqa: BLE001 - it is handed to whoever asked
                failed[message.id] = Failure(message=message, error=error)
                held.append(message.id)
            else:
                await consumer.archive(message.id)
                archived.append(message)
                failed.pop(message.id, None)
    for message_id in held:
        await consumer.release(message_id)
