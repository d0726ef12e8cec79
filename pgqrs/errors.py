"""Every error that the library raises, in one tree; each message says what happened and what to do next.

    PgqrsError
    ├── ValidationError                 an argument is not allowed (also a ValueError)
    ├── ConfigurationError              a setting is missing or wrong (also a ValueError)
    ├── DatabaseError                   PostgreSQL refused a statement
    │   ├── DatabaseUnavailableError    it cannot be reached now: the same call may succeed later
    │   └── SchemaError                 the tables are missing, foreign or of another generation
    ├── QueueNotFoundError
    ├── QueueAlreadyExistsError
    ├── QueueNotEmptyError
    ├── WorkerNotFoundError
    ├── WorkerAlreadyActiveError        somebody alive holds this identity
    ├── WorkerNotReadyError             suspended, draining or stopped: no messages now
    │   └── WorkerReplacedError         this id was replaced; it can never work again
    ├── InvalidStateTransitionError
    │   └── WorkerHasPendingMessagesError
    ├── SessionError                    the sidecar refused or broke the protocol
    └── Verdict                         raised by handlers, to say what becomes of their message
        ├── Retry                       try it again, after a time of the handler's choice
        └── DeadLetter                  never try it again

A password never stands in a message; `pgqrs.database.describe` names a database without it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from pgqrs.models import WorkerStatus


class PgqrsError(Exception):
    """Something that pgqrs was asked for could not be done.

    Example:
        ```python
        try:
            await producer.enqueue({"to": "ada@example.com"})
        except pgqrs.PgqrsError as error:
            print(error)  # says what happened and what to do next
        ```
    """

    def __init__(self, message: str | None = None) -> None:
        """Take the class docstring as the message where none is given."""
        super().__init__(message or (self.__doc__ or "").partition("\n\n")[0].strip())


class ValidationError(PgqrsError, ValueError):
    """An argument is not allowed; the message names it, its value and what is allowed.

    Example:
        ```python
        try:
            await producer.enqueue(float("nan"))
        except pgqrs.ValidationError as error:
            print(error)
        ```
    """


class ConfigurationError(PgqrsError, ValueError):
    """A setting is missing or wrong; the message names it and where it can be set.

    Example:
        ```python
        try:
            admin = pgqrs.Admin("localhost/mydb")
        except pgqrs.ConfigurationError:
            admin = pgqrs.Admin("postgresql://localhost/mydb")
        ```
    """


class DatabaseError(PgqrsError):
    """PostgreSQL refused a statement; the original error is the cause.

    Example:
        ```python
        try:
            await admin.install()
        except pgqrs.DatabaseError as error:
            print(error, error.__cause__)  # the cause is asyncpg's error
        ```
    """


class DatabaseUnavailableError(DatabaseError):
    """PostgreSQL cannot be reached at the moment; try again later.

    Example:
        ```python
        try:
            await producer.enqueue(payload)
        except pgqrs.DatabaseUnavailableError:
            await keep_for_later(payload)
        ```
    """


class SchemaError(DatabaseError):
    """The database does not hold the tables that this version needs.

    Example:
        ```python
        try:
            await admin.verify()
        except pgqrs.SchemaError:
            await admin.install()
        ```
    """


class QueueNotFoundError(PgqrsError):
    """There is no queue of this name; create it first with `Admin.create_queue`.

    Example:
        ```python
        try:
            await admin.get_queue("emails")
        except pgqrs.QueueNotFoundError:
            await admin.create_queue("emails")
        ```
    """


class QueueAlreadyExistsError(PgqrsError):
    """There is a queue of this name already.

    Example:
        ```python
        with contextlib.suppress(pgqrs.QueueAlreadyExistsError):
            await admin.create_queue("emails")
        ```
    """


class QueueNotEmptyError(PgqrsError):
    """The queue still has live messages; wait until they are handled, or purge it first.

    Example:
        ```python
        try:
            await admin.delete_queue("emails")
        except pgqrs.QueueNotEmptyError:
            await admin.purge_queue("emails")
        ```
    """


class WorkerNotFoundError(PgqrsError):
    """There is no worker of this id; it was never registered, or was purged.

    Example:
        ```python
        with contextlib.suppress(pgqrs.WorkerNotFoundError):
            await pgqrs.WorkerHandle(admin, 42).suspend()
        ```
    """


class WorkerAlreadyActiveError(PgqrsError):
    """A worker that is alive holds this identity; stop it, wait, or register with `replace=True`.

    Example:
        ```python
        try:
            await consumer.start()
        except pgqrs.WorkerAlreadyActiveError as error:
            print(f"{error.name} is taken until {error.free_at}")
        ```
    """

    def __init__(self, name: str, *, active_since: datetime, free_at: datetime) -> None:
        """Say who holds the identity since when, and when it would be free if nobody were there."""
        super().__init__(
            f"Worker {name} is active since {active_since.isoformat()}. Its name would be free at "
            f"{free_at.isoformat()} if it sent no more heartbeats. Stop it, choose another port, or register with "
            "replace=True."
        )
        self.name = name
        self.active_since = active_since
        self.free_at = free_at


class WorkerNotReadyError(PgqrsError):
    """The worker is not ready, so it gets no messages and holds none.

    Example:
        ```python
        try:
            await consumer.dequeue()
        except pgqrs.WorkerNotReadyError:
            return  # the pod ends, or the worker was closed
        ```
    """


class WorkerReplacedError(WorkerNotReadyError):
    """This worker was stopped or replaced by another process; register anew to go on working.

    Example:
        ```python
        try:
            await consumer.archive(message.id)
        except pgqrs.WorkerReplacedError:
            raise SystemExit(1)  # somebody else has the message; start anew
        ```
    """


class InvalidStateTransitionError(PgqrsError):
    """The worker's state does not allow this.

    Example:
        ```python
        try:
            await consumer.resume()
        except pgqrs.InvalidStateTransitionError as error:
            print(error.source, error.target, error.reason)
        ```
    """

    def __init__(self, source: WorkerStatus, target: WorkerStatus, reason: str) -> None:
        """Name both states and what would be allowed."""
        super().__init__(f"Invalid state transition from {source} to {target}: {reason}")
        self.source = source
        self.target = target
        self.reason = reason


class WorkerHasPendingMessagesError(InvalidStateTransitionError):
    """A worker with leased messages cannot be suspended; finish or release them first, or drain.

    Example:
        ```python
        try:
            await consumer.suspend()
        except pgqrs.WorkerHasPendingMessagesError as error:
            print(f"{error.count} messages are still being handled")
            await consumer.drain()
        ```
    """

    def __init__(self, source: WorkerStatus, target: WorkerStatus, count: int) -> None:
        """Say how many messages are leased."""
        super().__init__(
            source, target, f"{count} leased message(s) must be archived, deleted or released first; drain() does that"
        )
        self.count = count


class SessionError(PgqrsError):
    """The sidecar refused the session or broke the protocol.

    Example:
        ```python
        try:
            await consumer.start()
        except pgqrs.SessionError as error:
            print(error)  # such as a token that is not this pod's
        ```
    """


class Verdict(PgqrsError):  # noqa: N818 - not an error, but what a handler wants
    """What a handler of `Consumer.run` raises to decide what becomes of its message; nobody but `run` catches it.

    Example:
        ```python
        async def middleware(message, handle):
            try:
                await handle(message)
            except pgqrs.Verdict:
                raise  # the handler knew what it did
            except Exception:
                report(message)
                raise
        ```
    """


class Retry(Verdict):
    """The message is to be tried again; what was leased as often as the queue allows becomes a dead letter even so.

    Example:
        ```python
        async def send(message):
            answer = await post(message.payload)
            if answer.status == 429:
                raise pgqrs.Retry(after=timedelta(seconds=60))
        ```
    """

    def __init__(self, message: str | None = None, *, after: timedelta | None = None) -> None:
        """Decide when.

        Args:
            message: why, for the reason of a dead letter and the log.
            after: how long nobody is handed the message; the back-off of `run` if not given.

        Raises:
            ValidationError: the time is negative or no timedelta.
        """
        if after is not None and (not isinstance(after, timedelta) or after < timedelta()):
            problem = f"Retry after {after!r} is not allowed; after is a timedelta of zero or more."
            raise ValidationError(problem)
        super().__init__(message or "the handler asked for another try")
        self.after = after


class DeadLetter(Verdict):
    """The message can never succeed: it is put aside with this reason, and nobody is handed it until it is replayed.

    Example:
        ```python
        async def send(message):
            if "to" not in message.payload:
                raise pgqrs.DeadLetter("there is nobody to send it to")
        ```
    """

    def __init__(self, reason: str) -> None:
        """Say why, for those who read the list of dead letters; cut at 4,000 characters."""
        super().__init__(reason or "the handler gave it up")
        self.reason = str(self)
