"""Log lines of the sidecar: one JSON object each, on standard output, with the pod in every line.

No line ever holds the database's password or the session's token: whatever the text comes from, both are taken out
of the finished line.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from pgqrs_sidecar.settings import Settings

_FIELDS = "%(levelname)s %(name)s %(message)s"
_REDACTED = "[redacted]"


class _Formatter(JsonFormatter):
    """Writes JSON without the secrets."""

    def __init__(self, *, secrets: list[str], static: dict[str, str]) -> None:
        super().__init__(
            _FIELDS, timestamp="time", rename_fields={"levelname": "level", "name": "logger"}, static_fields=static
        )
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, _REDACTED)
        return line


def configure(settings: Settings | None = None) -> None:
    """Send all log lines to standard output; without settings, which may be what is wrong, nothing is known to hide."""
    secrets: list[str] = []
    static: dict[str, str] = {}
    level = "INFO"
    if settings is not None:
        password = urlsplit(settings.dsn).password or ""
        secrets = [secret for secret in {settings.token, password, unquote(password)} if secret]
        static = {"pod": f"{settings.pod.namespace}/{settings.pod.name}", "queue": settings.queue}
        level = settings.log_level
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter(secrets=secrets, static=static))
    logging.basicConfig(handlers=[handler], level=level, force=True)
