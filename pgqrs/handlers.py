"""How a handler is called: whatever the app gave, it becomes one thing that is awaited with a list of messages."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from pgqrs import errors
from pgqrs.names import shown
from pgqrs.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    #: What the app does with a message, or with a list of them: a function that is awaited, or a plain one.
    Handler: TypeAlias = Callable[[Any], Any]
    _Call: TypeAlias = Callable[[Any], Awaitable[None]]


class Middleware(Protocol):
    """Stands around the handler: is called with what the handler gets, and with the handler, or the next middleware.

    What it raises counts as raised by the handler. It runs in the event loop, also where the handler has a thread.

    Example:
        ```python
        async def measure(message, handle):
            began = time.perf_counter()
            try:
                await handle(message)
            finally:
                print(message.id, time.perf_counter() - began)

        await consumer.run(send_email, middleware=[measure])
        ```
    """

    async def __call__(self, message: Any, handle: Callable[[Any], Awaitable[None]], /) -> None:
        """Await `handle(message)`, once, with whatever is to be done before and after."""
        ...


def check_callables(name: str, values: Sequence[object]) -> None:
    """Refuse what can't be called.

    Raises:
        ValidationError: they are no list, or one of them is no function.
    """
    if not isinstance(values, Sequence) or not all(map(_is_function, values)):
        message = (
            f"The {name} {shown(values)} is not allowed; it is a function that does not yield, or for middleware a "
            "list of such functions."
        )
        raise errors.ValidationError(message)


def _is_function(value: object) -> bool:
    # Calling what yields does nothing yet, and would count as handled.
    return callable(value) and not (inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value))


def is_awaited(handler: Handler) -> bool:
    """Whether calling it gives something to await; anything else is a plain function, and gets a thread."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


class Calls:
    """Calls one handler, with everything that stands around it."""

    def __init__(
        self,
        handler: Handler,
        *,
        middleware: Sequence[Middleware],
        time_limit: float | None,
    ) -> None:
        """Put the handler and what stands around it together.

        Args:
            handler: the app's function.
            middleware: the first one is the outermost.
            time_limit: seconds that one call may take; a plain function goes on in its thread even so.
        """
        self._threads: Threads | None = None
        call: _Call
        if is_awaited(handler):
            call = handler
        else:
            self._threads = Threads()
            call = functools.partial(_call_in_thread, self._threads, handler)
        for around in reversed(middleware):
            call = functools.partial(_around, around, call)
        #: Handles a message, or a list of them; whatever the handler raises is raised, and TimeoutError at the limit.
        self.call = call if time_limit is None else functools.partial(_within, time_limit, call)

    @property
    def abandoned(self) -> int:
        """How many plain functions go on though their time limit is over; each takes the place of a handler."""
        return 0 if self._threads is None else self._threads.abandoned

    def when_free(self, call: Callable[[], None]) -> None:
        """Call this whenever one of those has ended."""
        if self._threads is not None:
            self._threads.when_free = call

    def close(self) -> None:
        """Let threads end."""
        if self._threads is not None:
            self._threads.close()


async def _within(seconds: float, call: _Call, argument: Any) -> None:
    try:
        async with asyncio.timeout(seconds) as limit:
            await call(argument)
    except TimeoutError:
        if limit.expired():
            message = f"the handler took longer than its time limit of {seconds:g} s"
            raise TimeoutError(message) from None
        raise


async def _around(middleware: Middleware, call: _Call, argument: Any) -> None:
    await middleware(argument, call)


async def _call_in_thread(threads: Threads, handler: Handler, argument: Any) -> None:
    result = await threads.run(contextvars.copy_context(), functools.partial(handler, argument))
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        message = "the handler gave a generator, so nothing was done; a handler does not yield"
        raise TypeError(message)
    # A lambda, for example, may give something to await without looking like it.
    if inspect.isawaitable(result):
        await cast("Awaitable[object]", result)
