"""Carries the context of a trace from sender to handler in the headers of messages, where OpenTelemetry is installed.

The headers are those of W3C Trace Context (`traceparent`, `tracestate`); names and attributes of spans follow the
semantic conventions of OpenTelemetry for messaging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqrs.handlers import Middleware
    from pgqrs.models import Message

try:
    from opentelemetry import propagate, trace
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True


def inject(headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Add the context of the trace that the caller is part of; headers that carry one already stay as they are."""
    if (
        not INSTALLED
        or not isinstance(headers, Mapping | None)
        or not trace.get_current_span().get_span_context().is_valid
    ):
        return headers
    carried: dict[str, Any] = {}
    propagate.inject(carried)
    return {**carried, **(headers or {})}


def spans(queue: str) -> Middleware | None:
    """Give what puts a span around each call of a handler; None where nobody would see one."""
    if not INSTALLED or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    tracer = trace.get_tracer("pgqrs")
    attributes: dict[str, str | int] = {
        "messaging.system": "pgqrs",
        "messaging.destination.name": queue,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }

    async def around(argument: Message | list[Message], handle: Callable[[Any], Awaitable[None]], /) -> None:
        if isinstance(argument, list):
            # A span has one parent; the traces of a batch are linked instead.
            origins = [trace.get_current_span(_context(message)).get_span_context() for message in argument]
            described = attributes | {"messaging.batch.message_count": len(argument)}
            parent, links = None, [trace.Link(origin) for origin in origins if origin.is_valid]
        else:
            described = attributes | {"messaging.message.id": str(argument.id)}
            parent, links = _context(argument), []
        with tracer.start_as_current_span(
            f"process {queue}", context=parent, kind=trace.SpanKind.CONSUMER, attributes=described, links=links
        ):
            await handle(argument)

    return around


def _context(message: Message) -> Any:
    texts = {name: value for name, value in message.headers.items() if isinstance(value, str)}
    return propagate.extract(texts)
