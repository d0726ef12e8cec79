"""Finds out whose fault it is where PostgreSQL refuses something that is done for many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pgqrs import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

#: So many that are refused one by one are enough to see that PostgreSQL refuses that kind as a whole.
_MOST_REFUSALS = 20

_Item = TypeVar("_Item")


async def by_halves(
    do: Callable[[Sequence[_Item]], Awaitable[None]],
    items: Sequence[_Item],
    *,
    batch: int,
    refused: Callable[[Sequence[_Item], str], None],
) -> None:
    """Do something for many at once; where that is refused, for each half of them, so that one holds up no other.

    Args:
        do: does it for some; what it did before it raised is done again for their halves, so that must do no harm.
        items: for whom.
        batch: for how many at once at most.
        refused: is told of those for whom it was refused, and what PostgreSQL said. After twenty that is all the rest.

    Raises:
        DatabaseUnavailableError: the database does not answer.
        SchemaError: the tables are not those that are needed.
    """
    parts = [items[first : first + batch] for first in range(0, len(items), batch)]
    parts.reverse()
    refusals, text = 0, ""
    while parts:
        part = parts.pop()
        if refusals >= _MOST_REFUSALS:
            refused(part, text)
            continue
        try:
            await do(part)
        except (errors.DatabaseUnavailableError, errors.SchemaError):
            raise
        except errors.DatabaseError as error:
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                refusals, text = refusals + 1, str(error)
                refused(part, text)
