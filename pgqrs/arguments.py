"""What is passed to the library: ids, numbers, durations, times and switches are checked here, names in `pgqrs.names`.

All of it is checked before PostgreSQL sees it and before anything is changed, so that an error names the argument and
what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pgqrs import errors
from pgqrs.names import shown

_Value = TypeVar("_Value")

MAX_ID = 2**63 - 1
#: So that no sum with the time of today leaves the calendar, neither PostgreSQL's nor Python's.
MAX_DURATION = timedelta(days=36_500)


def seconds(name: str, value: timedelta, *, positive: bool = False) -> float:
    """Give a duration in seconds.

    Args:
        name: what it is called in errors.
        value: the duration.
        positive: whether zero is too short.

    Raises:
        ValidationError: it is no timedelta, too short, or longer than 36,500 days.
    """
    if not isinstance(value, timedelta):
        message = f"The {name} is {shown(value)}; it is a timedelta, such as timedelta(seconds=30)."
        raise errors.ValidationError(message)
    if value < timedelta():
        message = f"The {name} {value} is negative; it is {'more than zero' if positive else 'zero or more'}."
        raise errors.ValidationError(message)
    if positive and not value:
        message = f"The {name} is zero; it is more than zero."
        raise errors.ValidationError(message)
    if value > MAX_DURATION:
        message = f"The {name} {value} is too long; it is at most {MAX_DURATION.days:,} days."
        raise errors.ValidationError(message)
    return value.total_seconds()


def moment(name: str, value: datetime) -> datetime:
    """Give a time back with its zone, which is UTC where it has none.

    Args:
        name: what it is called in errors.
        value: the time.

    Raises:
        ValidationError: it is no datetime, or no time in UTC.
    """
    if not isinstance(value, datetime):
        message = f"{name} is {shown(value)}; it is a datetime, such as datetime.now(UTC) - timedelta(hours=1)."
        raise errors.ValidationError(message)
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError as error:
        message = f"{name} is {value}, which is beyond the years 1 to 9999 in UTC; give a time within them."
        raise errors.ValidationError(message) from error


def row_id(value: int, what: str = "message") -> int:
    """Give an id back.

    Args:
        value: the id.
        what: what it is the id of, for errors.

    Raises:
        ValidationError: it is no whole number that PostgreSQL could have given.
    """
    if not _is_whole(value) or not 0 < value <= MAX_ID:
        message = f"{shown(value)} is no id of a {what}; an id is a whole number from 1 on, such as {what}.id."
        raise errors.ValidationError(message)
    return value


def ids(values: Iterable[int]) -> list[int]:
    """Give the ids of messages as a list.

    Raises:
        ValidationError: they are no list, or one of them is no whole number that PostgreSQL could have given.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        message = f"The ids are {shown(values)}, which is no id of a message; give a list of ids, such as [message.id]."
        raise errors.ValidationError(message)
    return [row_id(value) for value in values]


def whole_number(name: str, value: int, *, least: int = 1, most: int) -> int:
    """Give a number back.

    Args:
        name: what it is called in errors.
        value: the number.
        least: the smallest that is allowed.
        most: the largest.

    Raises:
        ValidationError: it is no whole number from `least` to `most`.
    """
    if not _is_whole(value) or not least <= value <= most:
        message = f"The {name} {shown(value)} is out of range; allowed are whole numbers from {least} to {most:,}."
        raise errors.ValidationError(message)
    return value


def batch_size(value: int, *, most: int = 10_000) -> int:
    """Give a number of rows back.

    Raises:
        ValidationError: it is no whole number from 1 to `most`.
    """
    return whole_number("limit", value, most=most)


def flag(name: str, value: bool) -> bool:  # noqa: FBT001 - it is the value that is checked
    """Give a switch back: a text such as "no" would count as yes.

    Args:
        name: what it is called in errors.
        value: the switch.

    Raises:
        ValidationError: it is neither True nor False.
    """
    return instance(name, value, bool)


def instance(name: str, value: _Value, kind: type[_Value]) -> _Value:
    """Give a value back if it is of this type.

    Args:
        name: what it is called in errors.
        value: the value.
        kind: the type.

    Raises:
        ValidationError: it is of another type.
    """
    if not isinstance(value, kind):
        what = "True or False" if kind is bool else f"a pgqrs.{kind.__name__}"
        message = f"The {name} is {shown(value)}; it is {what}."
        raise errors.ValidationError(message)
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
