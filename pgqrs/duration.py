"""Durations as people write them (`30s`, `1h30m`, `7d`), in the grammar of Go and Kubernetes with days added."""

from __future__ import annotations

import re
from datetime import timedelta

from pgqrs.errors import ValidationError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
#: The whole grammar as a pattern, for schemas; anchored.
PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"


def parse(text: str, *, field: str = "duration") -> timedelta:
    """Read a duration such as `90s`, `1h30m` or `7d`.

    Raises:
        ValidationError: the text is no duration; the message names `field`.
    """
    if not re.fullmatch(PATTERN, text, re.ASCII):
        message = f"{field} is {text!r}; allowed are numbers with the units ms, s, m, h or d, such as 30s, 1h30m or 7d."
        raise ValidationError(message)
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))
    except OverflowError as error:
        message = f"{field} is {text!r}, which is longer than any calendar."
        raise ValidationError(message) from error


def render(duration: timedelta) -> str:
    """Write a duration with the largest units that fit, such as `1h30m`; `parse` reads it back."""
    milliseconds = round(duration.total_seconds() * 1000)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
