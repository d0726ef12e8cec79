"""How a command runs: it finds its database when it needs it, and says what goes wrong in one line on stderr."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

import click

from pgqrs import duration, errors
from pgqrs.admin import Admin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    _DurationType = click.ParamType[timedelta]
else:
    _DurationType = click.ParamType

EXIT_ERROR = 1
#: 2 is click's, for a command line that cannot be understood.
EXIT_UNHEALTHY = 3

EXIT_CODES = "Exit codes: 0 done, 1 error, 2 the command line cannot be understood."

_DSN_HELP = (
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE; PGQRS_DSN if not given. Arguments are visible to everybody on the "
    "machine, so a DSN with a password belongs into PGQRS_DSN."
)
_SCHEMA_HELP = "Where the tables are; PGQRS_SCHEMA or public if not given."

FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", help="For people or for scripts."
)


YES = click.option("--yes", is_flag=True, help="Do it without asking.")
#: What is kept so is never removed.
FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class Target:
    """The database as the options before the command's name give it; opened by the command that needs it."""

    dsn: str | None
    schema: str | None


class Duration(_DurationType):
    """A duration such as `90s`, `1h30m` or `7d`; optionally also a bare number of seconds, or the word `forever`."""

    name = "duration"

    def __init__(self, *, bare_seconds: bool = False, or_forever: bool = False) -> None:
        self._bare_seconds = bare_seconds
        self._or_forever = or_forever

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text of the command line; a default is a duration already."""
        if not isinstance(value, str) or (self._or_forever and value == FOREVER):
            return value
        text = f"{value}s" if self._bare_seconds and value.isascii() and value.isdigit() else value
        try:
            return duration.parse(text, field=(param.opts[0] if param and param.opts else "the duration"))
        except errors.ValidationError as error:
            self.fail(str(error), param, ctx)


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if somebody says yes, at the terminal or by the option.

    Raises:
        click.UsageError: nobody is there to be asked.
        click.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        message = f"{question} Nobody can be asked here: say --yes to do it."
        raise click.UsageError(message)
    click.confirm(question, abort=True)


def ago(age: timedelta | None) -> str:
    """Write an age for people, in whole seconds."""
    return "never" if age is None else duration.render(age - age % duration.parse("1s")) + " ago"


def dsn_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--dsn` and `--schema`."""
    with_schema = click.option("--schema", help=_SCHEMA_HELP)(function)
    return click.option("--dsn", help=_DSN_HELP)(with_schema)


def command(function: Callable[..., Awaitable[int | None]]) -> Callable[..., None]:
    """Make a command of a coroutine that takes an `Admin`; what it returns is the exit code.

    `--dsn` and `--schema` may stand before or after the command's name.
    """

    def run(target: Target, /, *, dsn: str | None, schema: str | None, **options: Any) -> None:
        async def call() -> int | None:
            async with Admin(dsn or target.dsn, schema or target.schema) as admin:
                return await function(admin, **options)

        try:
            code = asyncio.run(call())
        except errors.PgqrsError as error:
            click.echo(f"pgqrs: {' '.join(str(error).split())}", err=True)
            sys.exit(EXIT_ERROR)
        sys.exit(code or 0)

    # The name is the command's default name, the docstring its help, and what click noted of its options comes along.
    return dsn_options(update_wrapper(click.pass_obj(run), function))
