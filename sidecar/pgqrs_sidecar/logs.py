"""Log lines of the sidecar: one JSON object each, on standard output, with the pod in every line.

No line ever holds the database's password or the session's token. Both are taken out of every value before the line
is written as JSON, in all the ways in which a program writes a text: as it is, in an address, in a `repr`. What cannot
come from a secret stays as it is, or a password that is a common word would eat names that people search for: our own
messages without arguments, names of loggers, levels, the pod and the queue.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqrs_sidecar.settings import Settings

_FIELDS = "%(levelname)s %(name)s %(message)s"
_REDACTED = "[redacted]"
_OURS = ("pgqrs.", "pgqrs_sidecar.")
#: Fields that hold no secret, or (message) were looked at before.
_KEPT = ("time", "level", "logger", "message")
#: What an address may say after its question mark, and PostgreSQL's clients take for a secret.
_SECRET_OPTIONS = ("password", "sslpassword")


class _Formatter(JsonFormatter):
    """Writes JSON without the secrets."""

    def __init__(self, *, secrets: set[str], static: dict[str, str]) -> None:
        super().__init__(
            _FIELDS, timestamp="time", rename_fields={"levelname": "level", "name": "logger"}, static_fields=static
        )
        # The longest first: one secret may be a part of another one's spelling.
        spellings = sorted(set().union(*map(_spellings, secrets)), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def format(self, record: logging.LogRecord) -> str:
        if self._secrets is not None and (record.args or not record.name.startswith(_OURS)):
            record = logging.makeLogRecord({**record.__dict__, "msg": self._clean(record.getMessage()), "args": None})
        return super().format(record)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        # Through JSON once, so that whatever objects a line holds have become texts, numbers and collections of them.
        values: dict[str, Any] = json.loads(super().jsonify_log_record(log_data))
        for name, value in values.items():
            if name not in _KEPT and value != self.static_fields.get(name):
                values[name] = self._clean(value)
        return json.dumps(values)

    def _clean(self, value: Any) -> Any:
        if self._secrets is None:
            return value
        match value:
            case str():
                return self._secrets.sub(_REDACTED, value)
            case list():
                return [self._clean(item) for item in value]
            case dict():
                return {self._clean(key): self._clean(item) for key, item in value.items()}
            case _:
                return value


def _spellings(secret: str) -> set[str]:
    """All the ways in which a text may hold a secret."""
    found = {secret, *(write(secret, errors="surrogateescape") for write in (quote, quote_plus, _quote_all))}
    # Twice, because an error whose text shows something is itself shown, by asyncio for one.
    for _ in range(2):
        found |= {escaped for text in found for escaped in _escaped(text)}
    return found


def _quote_all(text: str, *, errors: str) -> str:
    return quote(text, safe="", errors=errors)


def _escaped(text: str) -> Iterator[str]:
    """A text as it stands within what `repr` or JSON made of a longer one, so without the quotes around it."""
    for write in (repr, ascii):
        # Both kinds of quotes in it make sure that the single ones are escaped, which depends on the longer text.
        shown = write(text + "'\"")[1:-4]
        yield from (shown, shown.replace("\\'", "'"))
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])


def _secrets(settings: Settings) -> set[str]:
    parts = urlsplit(settings.dsn)
    password = parts.password or ""
    found = {settings.token, password, unquote(password), os.environ.get("PGPASSWORD", "")}
    for option in parts.query.split("&"):
        name, _, value = option.partition("=")
        if unquote_plus(name) in _SECRET_OPTIONS:
            found |= {value, unquote(value), unquote_plus(value)}
    return found - {""}


def formatter(settings: Settings | None) -> logging.Formatter:
    """Make what writes the lines; without settings, which may be what is wrong, nothing is known to hide."""
    if settings is None:
        return _Formatter(secrets=set(), static={})
    pod = f"{settings.pod.namespace}/{settings.pod.name}"
    return _Formatter(secrets=_secrets(settings), static={"pod": pod, "queue": settings.queue})


def configure(settings: Settings | None = None) -> None:
    """Send all log lines to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter(settings))
    logging.basicConfig(handlers=[handler], level="INFO" if settings is None else settings.log_level, force=True)
