"""The kinds of values that annotations and settings have: each says what is allowed and reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pgqrs_injection import quantities

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

T = TypeVar("T")

#: What stands for "no limit at all".
NONE = "none"
_DIGITS = re.compile(r"[0-9]{1,6}")
_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
#: A token is part of an address, where other signs would have to be written in another way.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[T]):
    """A kind of value."""

    #: What it is called in the documentation.
    title: str
    #: What is allowed, in words that follow "allowed is".
    allowed: str
    #: Gives the value that a text or a JSON value stands for; raises ValueError.
    read: Callable[[object], T]
    #: Whether a value that is not allowed is quoted all the same: no secret is.
    quoted: bool = True

    def complaint(self, source: str, value: object) -> str:
        """Say that a value is not allowed here."""
        if not self.quoted:
            return f"{source} is not allowed; allowed is {self.allowed}."
        shown = repr(value[:_SHOWN] if isinstance(value, str) else value)
        return f"{source} is {shown if isinstance(value, str) else shown[:_SHOWN]}; allowed is {self.allowed}."


def whole(least: int, most: int, *, unit: str = "") -> Kind[int]:
    """A whole number within limits."""

    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            raise ValueError(value)
        return number

    of_unit = f" of {unit}" if unit else ""
    return Kind(title=f"whole number{of_unit}", allowed=f"a whole number{of_unit} from {least} to {most}", read=read)


def choice(*allowed: str) -> Kind[str]:
    """One of several words, written exactly like this."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(value)
        return value

    return Kind(title="word", allowed=f"{', '.join(allowed[:-1])} or {allowed[-1]}", read=read)


def boolean() -> Kind[bool]:
    """`true` or `false`."""

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        if value not in ("true", "false"):
            raise ValueError(value)
        return value == "true"

    return Kind(title="true or false", allowed="true or false", read=read)


def quantity(example: str, *, least: str, or_none: bool = False) -> Kind[str]:
    """A Kubernetes quantity of at least so much, as a text; with `or_none` also the word `none`."""
    smallest: Decimal = quantities.amount(least)

    def read(value: object) -> str:
        if or_none and value == NONE:
            return NONE
        # JSON, and so a chart's values, may say 1 for "1".
        text = str(value)
        if isinstance(value, bool) or quantities.amount(text) < smallest:
            raise ValueError(value)
        return text

    words = f"a Kubernetes quantity of {least} or more, such as {example}"
    return Kind(title="quantity", allowed=f"{words}, or {NONE}" if or_none else words, read=read)


def container_names() -> Kind[tuple[str, ...]]:
    """Names of containers with commas between them."""

    def read(value: object) -> tuple[str, ...]:
        names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else ()
        if not names or not all(_CONTAINER.fullmatch(name) for name in names):
            raise ValueError(value)
        return names

    return Kind(
        title="names with commas between them", allowed="a list of container names with commas between them", read=read
    )


def token() -> Kind[str]:
    """What opens a sidecar."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            raise ValueError(_TOKEN.pattern)
        return value

    return Kind(title="token", allowed="a plain value of 16 to 128 letters, digits, - and _", read=read, quoted=False)
