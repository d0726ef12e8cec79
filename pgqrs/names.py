"""What names may look like: queues, schemas and hosts are checked here and nowhere else."""

from __future__ import annotations

import re
from reprlib import Repr

from pgqrs.errors import ValidationError

MAX_QUEUE_NAME_LENGTH = 255
_MAX_HOSTNAME_LENGTH = 512
_MAX_PORT = 2**31 - 1
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shown(value: object) -> str:
    """Write a value for an error, cut short: whatever was passed may be of any size and kind."""
    try:
        return _SHORT.repr(value)
    except Exception:  # noqa: BLE001 - a number of thousands of digits, or an object that cannot be shown
        return f"a {type(value).__name__}"


def queue_name(name: str) -> str:
    """Give the name back if a queue may have it.

    Upstream takes any text, so ours refuses only what cannot be typed or stored.

    Raises:
        ValidationError: no text, empty, too long, or with control characters or blanks at an end.
    """
    if not _is_printable(name, MAX_QUEUE_NAME_LENGTH) or name != name.strip():
        message = (
            f"The queue name {shown(name)} is not allowed; a name is a text of 1 to {MAX_QUEUE_NAME_LENGTH} printable "
            "characters with no blanks at its ends."
        )
        raise ValidationError(message)
    return name


def schema_name(name: str) -> str:
    """Give the name back if a schema may have it (upstream's rule: a plain identifier of up to 63 characters).

    Raises:
        ValidationError: it is something else.
    """
    if not isinstance(name, str) or not _SCHEMA.fullmatch(name):
        message = (
            f"The schema name {shown(name)} is not allowed; it starts with a letter or _, goes on with letters, "
            "digits, _ or $, and has at most 63 characters."
        )
        raise ValidationError(message)
    return name


def worker_name(hostname: str, port: int) -> str:
    """Join a host and a port to the name of a worker, `HOST:PORT`.

    Raises:
        ValidationError: the host is no text, empty, too long or not printable, or the port is no whole number, negative
            or too large.
    """
    if not _is_printable(hostname, _MAX_HOSTNAME_LENGTH) or "#" in hostname:
        message = (
            f"The hostname {shown(hostname)} is not allowed; "
            f"it is a text of 1 to {_MAX_HOSTNAME_LENGTH} printable characters other than #."
        )
        raise ValidationError(message)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= _MAX_PORT:
        message = f"The port {shown(port)} is not allowed; it is a whole number from 0 to {_MAX_PORT}."
        raise ValidationError(message)
    return f"{hostname}:{port}"


def _is_printable(text: object, longest: int) -> bool:
    return isinstance(text, str) and 1 <= len(text) <= longest and text.isprintable()
