"""What a schema is made of, as text by name, so that two of them can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

_OBJECTS = Path(__file__).with_suffix(".sql").read_text()


@dataclass(frozen=True, slots=True)
class Difference:
    """What is in one schema and not in another."""

    removed: frozenset[str]
    added: dict[str, str]
    #: By name: what it was, and what it is.
    changed: dict[str, tuple[str, str]]


async def read(connection: asyncpg.Connection, schema: str = "public") -> dict[str, str]:
    """Give every object of a schema, by `KIND NAME`, as PostgreSQL would write it."""
    return {row["name"]: row["text"] for row in await connection.fetch(_OBJECTS, schema)}


def compare(before: dict[str, str], after: dict[str, str]) -> Difference:
    """Say what became of a schema."""
    return Difference(
        removed=frozenset(before.keys() - after.keys()),
        added={name: after[name] for name in after.keys() - before.keys()},
        changed={
            name: (before[name], after[name]) for name in before.keys() & after.keys() if before[name] != after[name]
        },
    )
