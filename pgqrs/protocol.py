"""The session between an app's process and its pod's sidecar: one JSON object per line (`docs/session-protocol.md`).

Both sides use this module, so that they cannot disagree on a name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pgqrs.errors import SessionError

if TYPE_CHECKING:
    import asyncio

VERSION: Final = 1
#: The longest line, in bytes, its end included.
MAX_LINE: Final = 64 * 1024

HELLO: Final = "hello"
WELCOME: Final = "welcome"
ERROR: Final = "error"
PING: Final = "ping"
PONG: Final = "pong"
DRAIN: Final = "drain"
DRAINED: Final = "drained"
STATE: Final = "state"
GOODBYE: Final = "goodbye"
BYE: Final = "bye"

#: Codes of an error message.
FORBIDDEN: Final = "forbidden"
BAD_PROTOCOL: Final = "protocol"
UNKNOWN_QUEUE: Final = "unknown_queue"
DRAINING: Final = "draining"
UNAVAILABLE: Final = "unavailable"
#: The worker id that a hello names was stopped or belongs to somebody else.
REPLACED: Final = "replaced"


def encode(kind: str, **fields: Any) -> bytes:
    """Write a message as a line."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read a line.

    Raises:
        SessionError: it is no JSON object with a `type`.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        text = "A line of the session is not JSON; both sides must speak pgqrs session protocol 1."
        raise SessionError(text) from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        text = "A line of the session is no object with a type; both sides must speak pgqrs session protocol 1."
        raise SessionError(text)
    return message


async def receive(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Wait for the next message; None when the other side closed the connection.

    The stream must have been made with `limit=MAX_LINE`.

    Raises:
        SessionError: the line is too long or malformed.
        OSError: the connection broke.
    """
    try:
        line = await reader.readline()
    except ValueError as error:
        message = f"A line of the session is longer than {MAX_LINE} bytes."
        raise SessionError(message) from error
    if not line.endswith(b"\n"):
        return None
    return decode(line)
