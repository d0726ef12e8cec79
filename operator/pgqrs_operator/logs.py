"""Log lines of operator and injector: one JSON object each, on standard output.

No address of a database is ever logged; for what a library may quote all the same, passwords in URLs are taken out of
the finished line.
"""

from __future__ import annotations

import logging
import re
import sys

from pythonjsonlogger.json import JsonFormatter

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_FIELDS = "%(levelname)s %(name)s %(message)s"
_URL_PASSWORD = re.compile(r"(\w+://[^:@/\s\"]*:)[^@/\s\"]+(?=@)")


class _Formatter(JsonFormatter):
    """Writes JSON without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return _URL_PASSWORD.sub(r"\1[redacted]", super().format(record))


def configure(level: str = "INFO") -> None:
    """Send all log lines to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter(_FIELDS, timestamp="time", rename_fields={"levelname": "level", "name": "logger"}))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # kopf tells of every watch and every handler.
    logging.getLogger("kopf").setLevel(max(logging.getLevelName(level), logging.WARNING))
