"""How results are shown: tables for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from pgqrs import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNBOUNDED = 10_000


def plain(value: Any) -> Any:
    """Turn values of the library into what JSON can say; durations as text, times in RFC 3339."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return duration.render(value)
    return value


def show(rows: Sequence[dict[str, Any]], *, form: str, columns: Sequence[str]) -> None:
    """Print rows as a table of these columns, or as a JSON list with everything."""
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(*[column.upper() for column in columns], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*["" if row[column] is None else _cell(str(row[column])) for column in columns])
    # Names are shown as they are. Not a terminal: nothing is wrapped or cut, so that lines can be grepped.
    console = Console(markup=False, highlight=False, emoji=False)
    if console.is_terminal:
        console.print(table)
    else:
        wide = Console(markup=False, highlight=False, emoji=False, width=_UNBOUNDED)
        with wide.capture() as captured:
            wide.print(table)
        for line in captured.get().splitlines():
            click.echo(line.rstrip())


def _cell(text: str) -> str:
    """Write what others chose, such as a reason, so that it stays in its row and does nothing to the terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def say(text: str, result: dict[str, Any], *, form: str) -> None:
    """Print what was done as a sentence, or as a JSON object."""
    click.echo(json.dumps(result, indent=2) if form == "json" else text)
