"""Loads the SQL of `pgqrs/sql`: every statement is a named block of a file, to be read, linted and explained.

A block starts with a line `-- name: NAME` and is known as `FILE.NAME`. Within a block `{schema}` stands for the quoted
schema, and `{NAME}` for the block NAME of `fragments.sql`; those of `roles.sql` also name roles. No value ever gets
into a statement this way.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADER = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@cache
def _blocks(file: str) -> dict[str, str]:
    text = resources.files("pgqrs").joinpath("sql", f"{file}.sql").read_text("utf-8")
    parts = _HEADER.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def render(text: str, schema: str, identifiers: Mapping[str, str] | None = None) -> str:
    """Fill in the schema, other identifiers and the fragments.

    The schema's name must have been checked by `names.schema_name`, and other identifiers as strictly.
    """
    fragments = _blocks("fragments")
    quoted = {"schema": schema, **(identifiers or {})}

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return f'"{quoted[name]}"' if name in quoted else render(fragments[name], schema)

    return _PLACEHOLDER.sub(fill, text)


def block(name: str) -> str:
    """Give the block `FILE.NAME` as it is written, to be rendered.

    Raises:
        KeyError: there is none of this name, which is a mistake in the library.
    """
    file, _, found = name.partition(".")
    return _blocks(file)[found]


@cache
def statement(name: str, schema: str) -> str:
    """Give the statement `FILE.NAME` for tables in this schema.

    Raises:
        KeyError: there is none of this name, which is a mistake in the library.
    """
    return render(block(name), schema)


@cache
def names() -> tuple[str, ...]:
    """Give the names `FILE.NAME` of all blocks."""
    folder = resources.files("pgqrs").joinpath("sql")
    files = sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(f"{file}.{name}" for file in files for name in _blocks(file))


@cache
def migration(file: str, schema: str) -> str:
    """Give the text of a migration for tables in this schema."""
    return render(migration_source(file), schema)


@cache
def migration_source(file: str) -> str:
    """Give a migration as it is written, which is what its checksum is made of."""
    return resources.files("pgqrs").joinpath("sql", "migrations", f"{file}.sql").read_text("utf-8")


@cache
def migration_files() -> tuple[str, ...]:
    """Give the names of all files of migrations, without `.sql`."""
    folder = resources.files("pgqrs").joinpath("sql", "migrations")
    return tuple(sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql")))
