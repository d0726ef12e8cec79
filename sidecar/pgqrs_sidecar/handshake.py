"""How a session begins: what a process says first, checked before anything is handed out, and the row it is handed.

The token comes first: without it nobody learns what else would be wrong.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgqrs import errors, names, protocol
from pgqrs.models import WorkerId
from pgqrs_sidecar.outage import Backoff

if TYPE_CHECKING:
    from pgqrs.models import WorkerInfo
    from pgqrs_sidecar.rows import PodRows
    from pgqrs_sidecar.tasks import Tasks

#: How long a new process waits for the database before it is told to try again, in seconds; less than the library's
#: own patience with a welcome.
WELCOME_SECONDS = 20.0
_MAX_CONTAINER_LENGTH = 253


class RefusedError(Exception):
    """The connection is answered with this error and closed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a process says of itself."""

    queue: str
    container: str | None
    pid: int
    #: The row that it has already, from before its sidecar was restarted or because it registered itself.
    worker_id: WorkerId | None


async def hear_hello(reader: asyncio.StreamReader, *, token: str, seconds: float) -> Hello | None:
    """Wait for a hello; None where the connection ends without one, like a probe of the port does.

    Args:
        reader: the connection.
        token: what it must show.
        seconds: how long it may take.

    Raises:
        RefusedError: it says something else, or nothing in time.
    """
    try:
        async with asyncio.timeout(seconds):
            message = await protocol.receive(reader)
    except TimeoutError as error:
        text = f"No hello came within {seconds:g} s."
        raise RefusedError(protocol.BAD_PROTOCOL, text) from error
    except OSError:
        return None
    except errors.SessionError as error:
        raise RefusedError(protocol.BAD_PROTOCOL, str(error)) from error
    return None if message is None else _check(message, token)


def _check(message: dict[str, Any], token: str) -> Hello:
    shown = message.get("token")
    if not is_token(shown, token):
        text = "The token is not this pod's; it is in PGQRS_SIDECAR_TOKEN."
        raise RefusedError(protocol.FORBIDDEN, text)
    if message["type"] != protocol.HELLO or message.get("protocol") != protocol.VERSION:
        text = f"A session starts with a hello of protocol {protocol.VERSION}."
        raise RefusedError(protocol.BAD_PROTOCOL, text)
    queue, container = message.get("queue"), message.get("container")
    pid, worker_id = message.get("pid"), message.get("worker_id")
    if not (
        isinstance(queue, str)
        and (container is None or _is_container(container))
        and type(pid) is int
        and (worker_id is None or type(worker_id) is int)
    ):
        text = "A hello has queue (text), container (text or null), pid (number) and worker_id (number or null)."
        raise RefusedError(protocol.BAD_PROTOCOL, text)
    try:
        names.queue_name(queue)
    except errors.ValidationError as error:
        raise RefusedError(protocol.UNKNOWN_QUEUE, str(error)) from error
    return Hello(
        queue=queue, container=container, pid=pid, worker_id=None if worker_id is None else WorkerId(worker_id)
    )


def is_token(shown: object, token: str) -> bool:
    """Whether somebody who shows this may come in; compared in the same time whatever it is."""
    text = shown if isinstance(shown, str) else ""
    return hmac.compare_digest(text.encode(errors="backslashreplace"), token.encode(errors="backslashreplace"))


def _is_container(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_CONTAINER_LENGTH and value.isprintable()


class Reception:
    """Finds a row for each process that comes."""

    def __init__(self, rows: PodRows, tasks: Tasks) -> None:
        self._rows = rows
        self._tasks = tasks

    async def row_for(self, hello: Hello) -> WorkerInfo:
        """Give the row of a process, and wait a while for a database that does not answer.

        Raises:
            RefusedError: there is none for it.
        """
        backoff = Backoff(first=0.1, most=1.0)
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                await self._rows.registered.wait()
                while True:
                    try:
                        return await self._ask(hello)
                    except errors.DatabaseUnavailableError:
                        await asyncio.sleep(backoff.pause())
        except TimeoutError as error:
            text = "The database does not answer; try again later."
            raise RefusedError(protocol.UNAVAILABLE, text) from error
        except errors.WorkerReplacedError as error:
            raise RefusedError(protocol.REPLACED, str(error)) from error
        except errors.WorkerNotReadyError as error:
            raise RefusedError(protocol.DRAINING, str(error)) from error
        except errors.QueueNotFoundError as error:
            raise RefusedError(protocol.UNKNOWN_QUEUE, str(error)) from error
        except errors.DatabaseError as error:
            raise RefusedError(protocol.UNAVAILABLE, str(error)) from error

    async def _ask(self, hello: Hello) -> WorkerInfo:
        """Ask for a row; the question is not cut off where its answer is no longer waited for.

        Cut off after the database had it, a registration would leave a row that is nobody's.
        """
        answer: asyncio.Future[WorkerInfo] = asyncio.get_running_loop().create_future()
        self._tasks.passing("row for a process", self._fetch(hello, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None:
                # It came in the very moment in which the waiting ended.
                self._give_back(hello, answer.result())
            raise

    async def _fetch(self, hello: Hello, answer: asyncio.Future[WorkerInfo]) -> None:
        try:
            if hello.worker_id is None:
                info = await self._rows.claim(hello.queue, hello.container)
            else:
                info = await self._rows.take_up(hello.worker_id, hello.queue, hello.container)
        except errors.PgqrsError as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if answer.done():
                self._give_back(hello, info)
            else:
                answer.set_result(info)

    def _give_back(self, hello: Hello, info: WorkerInfo) -> None:
        if hello.worker_id is None:
            self._rows.release(info.id, "its process did not wait for it")
        else:
            self._rows.lend(info.id)
