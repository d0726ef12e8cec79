"""Loads the SQL of `pgqrs/sql`: every statement is a named block of a file, to be read, linted and explained.

A block starts with a line `-- name: NAME` and is known as `FILE.NAME`. Within a block `{schema}` stands for the quoted
schema, and `{NAME}` for the block NAME of `fragments.sql`. No value ever gets into a statement this way.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_HEADER = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@cache
def _blocks(file: str) -> dict[str, str]:
    text = resources.files("pgqrs").joinpath("sql", f"{file}.sql").read_text("utf-8")
    parts = _HEADER.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def render(text: str, schema: str) -> str:
    """Fill in the schema and the fragments. The schema's name must have been checked by `names.schema_name`."""
    fragments = _blocks("fragments")

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return f'"{schema}"' if name == "schema" else render(fragments[name], schema)

    return _PLACEHOLDER.sub(fill, text)


@cache
def statement(name: str, schema: str) -> str:
    """Give the statement `FILE.NAME` for tables in this schema.

    Raises:
        KeyError: there is none of this name, which is a mistake in the library.
    """
    file, _, block = name.partition(".")
    return render(_blocks(file)[block], schema)


@cache
def migration(file: str, schema: str) -> str:
    """Give the text of a migration for tables in this schema."""
    return render(migration_source(file), schema)


@cache
def migration_source(file: str) -> str:
    """Give a migration as it is written, which is what its checksum is made of."""
    return resources.files("pgqrs").joinpath("sql", "migrations", f"{file}.sql").read_text("utf-8")
