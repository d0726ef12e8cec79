"""What names may look like: queues, schemas and hosts are checked here and nowhere else."""

from __future__ import annotations

import re

from pgqrs.errors import ValidationError

MAX_QUEUE_NAME_LENGTH = 255
_MAX_HOSTNAME_LENGTH = 512
_MAX_PORT = 2**31 - 1
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


def queue_name(name: str) -> str:
    """Give the name back if a queue may have it.

    Upstream takes any text, so ours refuses only what cannot be typed or stored.

    Raises:
        ValidationError: empty, too long, or with control characters or blanks at an end.
    """
    if not 1 <= len(name) <= MAX_QUEUE_NAME_LENGTH or not name.isprintable() or name != name.strip():
        message = (
            f"The queue name {name!r} is not allowed; a name has 1 to {MAX_QUEUE_NAME_LENGTH} printable characters "
            "and no blanks at its ends."
        )
        raise ValidationError(message)
    return name


def schema_name(name: str) -> str:
    """Give the name back if a schema may have it (upstream's rule: a plain identifier of up to 63 characters).

    Raises:
        ValidationError: it is something else.
    """
    if not _SCHEMA.fullmatch(name):
        message = (
            f"The schema name {name!r} is not allowed; it starts with a letter or _, goes on with letters, digits, "
            "_ or $, and has at most 63 characters."
        )
        raise ValidationError(message)
    return name


def worker_name(hostname: str, port: int) -> str:
    """Join a host and a port to the name of a worker, `HOST:PORT`.

    Raises:
        ValidationError: the host is empty, too long or not printable, or the port is negative or too large.
    """
    if not 1 <= len(hostname) <= _MAX_HOSTNAME_LENGTH or not hostname.isprintable() or "#" in hostname:
        message = (
            f"The hostname {hostname!r} is not allowed; "
            f"it has 1 to {_MAX_HOSTNAME_LENGTH} printable characters other than #."
        )
        raise ValidationError(message)
    if not 0 <= port <= _MAX_PORT:
        message = f"The port {port} is not allowed; it is a number from 0 to {_MAX_PORT}."
        raise ValidationError(message)
    return f"{hostname}:{port}"
