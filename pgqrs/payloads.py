"""What a message may carry: payloads as JSON by a codec of the app's choice, headers, keys, and the limits of each.

Everything is checked here before PostgreSQL sees it, so that an error names the argument and what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from pgqrs import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The largest payload, in bytes of its JSON, unless a producer is told another limit.
DEFAULT_MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_HEADERS_BYTES = 64 * 1024
MAX_KEY_LENGTH = 512
#: A reason is cut here; it is to be read in a list.
MAX_REASON_LENGTH = 4000
_MAX_ID = 2**63 - 1
#: The escape of U+0000; an even number of backslashes in front makes it the text `\\u0000`.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Codec(Protocol):
    """Turns payloads into JSON text and back; an object with these two methods, such as the module `json` or `orjson`.

    Example:
        ```python
        import orjson

        producer = pgqrs.Producer(dsn, "emails", codec=orjson)
        ```
    """

    def dumps(self, value: Any, /) -> str | bytes:
        """Write a value as JSON; raise TypeError or ValueError if it cannot be."""
        ...

    def loads(self, text: str, /) -> Any:
        """Read a value from JSON. PostgreSQL keeps the value, not the spelling: blanks and the order of keys change."""
        ...


class JsonCodec:
    """JSON by the standard library; NaN and the infinities are refused, because JSON has none."""

    def dumps(self, value: Any, /) -> str:
        """Write a value as compact JSON; raises TypeError or ValueError if JSON cannot say it."""
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))

    def loads(self, text: str, /) -> Any:
        """Read a value from JSON."""
        return json.loads(text)


DEFAULT_CODEC = JsonCodec()


def encode(
    value: Any, codec: Codec = DEFAULT_CODEC, *, what: str = "The payload", limit: int = DEFAULT_MAX_PAYLOAD_BYTES
) -> str:
    """Write a value as JSON that PostgreSQL takes.

    Args:
        value: what to write.
        codec: who writes it.
        what: its name for errors.
        limit: the most bytes.

    Raises:
        ValidationError: the codec cannot say it, PostgreSQL cannot store it, or it is too large.
    """
    try:
        written = codec.dumps(value)
        text = written.decode() if isinstance(written, bytes) else written
        size = len(text.encode())
    except UnicodeError as error:
        message = f"{what} holds half of a surrogate pair, which is no character: {error}."
        raise errors.ValidationError(message) from error
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{what} cannot be written as JSON: {error}."
        raise errors.ValidationError(message) from error
    if _NUL.search(text):
        message = f"{what} holds the character U+0000, which PostgreSQL cannot store in jsonb."
        raise errors.ValidationError(message)
    if size > limit:
        message = (
            f"{what} takes {size:,} bytes as JSON, the limit is {limit:,}; store what is large elsewhere and "
            "send where, or raise the limit."
        )
        raise errors.ValidationError(message)
    return text


def headers(value: Mapping[str, Any] | None) -> str | None:
    """Write headers as JSON; None stays None.

    Raises:
        ValidationError: they are no mapping with texts as keys, JSON cannot say them, or they take more than 64 KiB.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        message = f"The headers are {type(value).__name__}; they are a mapping of texts to anything that JSON can say."
        raise errors.ValidationError(message)
    return encode(dict(value), what="The set of headers", limit=MAX_HEADERS_BYTES)


def key(value: str | None) -> str | None:
    """Give a deduplication key back; None stays None.

    Raises:
        ValidationError: it is no text of 1 to 512 characters without U+0000.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY_LENGTH or not _is_storable(value):
        message = (
            f"The key {value!r} is not allowed; a key is a text of 1 to {MAX_KEY_LENGTH} characters without U+0000."
        )
        raise errors.ValidationError(message)
    return value


def reason(value: str) -> str:
    """Give the reason for a dead letter back, cut at 4,000 characters.

    Raises:
        ValidationError: it is no text, blank, or holds U+0000.
    """
    if not isinstance(value, str) or not value.strip() or not _is_storable(value):
        message = f"The reason {value!r} is not allowed; it is a text that says something, without U+0000."
        raise errors.ValidationError(message)
    return value[:MAX_REASON_LENGTH]


def seconds(name: str, value: timedelta, *, positive: bool = False) -> float:
    """Give a duration in seconds.

    Args:
        name: what it is called in errors.
        value: the duration.
        positive: whether zero is too short.

    Raises:
        ValidationError: it is no timedelta, or too short.
    """
    if not isinstance(value, timedelta):
        message = f"The {name} is {value!r}; it is a timedelta, such as timedelta(seconds=30)."
        raise errors.ValidationError(message)
    if value < timedelta():
        message = f"The {name} {value} is negative; it is {'more than zero' if positive else 'zero or more'}."
        raise errors.ValidationError(message)
    if positive and not value:
        message = f"The {name} is zero; it is more than zero."
        raise errors.ValidationError(message)
    return value.total_seconds()


def ids(values: Iterable[int]) -> list[int]:
    """Give the ids of messages as a list.

    Raises:
        ValidationError: one of them is no whole number that PostgreSQL could have given.
    """
    found = list(values)
    for value in found:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_ID:
            message = f"{value!r} is no id of a message; an id is a whole number from 1 on, such as message.id."
            raise errors.ValidationError(message)
    return found


def batch_size(value: int, *, most: int = 10_000) -> int:
    """Give a number of rows back.

    Raises:
        ValidationError: it is no whole number from 1 to `most`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        message = f"The limit {value!r} is out of range; allowed are 1 to {most:,}."
        raise errors.ValidationError(message)
    return value


def _is_storable(text: str) -> bool:
    return not re.search("[\0\ud800-\udfff]", text)
