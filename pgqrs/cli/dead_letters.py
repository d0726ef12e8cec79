"""The commands for dead letters: which there are and why, and sending them again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pgqrs.cli import running
from pgqrs.cli.output import plain, say, show

if TYPE_CHECKING:
    from pgqrs.admin import Admin

_REASON = click.option(
    "--reason", help="Only those whose reason matches this pattern of SQL's LIKE, such as %timeout%."
)


@click.group("dead-letter", epilog=running.EXIT_CODES)
def dead_letter() -> None:
    """Messages that were given up, with the reason."""


@dead_letter.command("list")
@click.option("--queue", "queue_name", required=True, help="The queue.")
@_REASON
@click.option(
    "--after", type=click.IntRange(0), default=0, help="Only those of higher ids: the last of the page before."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The most letters.")
@running.FORMAT
@running.command
async def list_letters(admin: Admin, queue_name: str, reason: str | None, after: int, limit: int, *, form: str) -> None:
    """List a queue's dead letters in the order of their ids."""
    table = await admin.get_messages()
    rows = [plain(one) for one in await table.dead_letters(queue_name, reason=reason, after=after, limit=limit)]
    if form == "table":
        for row in rows:
            row["payload"] = json.dumps(row["payload"], ensure_ascii=False)
    show(rows, form=form, columns=["id", "died_at", "read_ct", "reason", "payload"])


@dead_letter.command("replay")
@click.option("--queue", "queue_name", help="All dead letters of this queue.")
@_REASON
@click.option("--id", "ids", type=int, multiple=True, help="This dead letter; may be given several times.")
@running.FORMAT
@running.command
async def replay_letters(
    admin: Admin, queue_name: str | None, reason: str | None, ids: tuple[int, ...], form: str
) -> int:
    """Send dead letters again, by their ids or all of a queue that match. They are ready at once, as if new."""
    if (queue_name is None) == (not ids) or (ids and reason is not None):
        message = "Name dead letters by --id, or a queue by --queue, with --reason for some of its letters."
        raise click.UsageError(message)
    table = await admin.get_messages()
    missing: list[int] = []
    if queue_name is not None:
        replayed = await table.replay_matching(queue_name, reason=reason)
    else:
        done = await table.replay_many(ids)
        replayed = sum(done)
        missing = [letter for letter, was_one in zip(ids, done, strict=True) if not was_one]
    say(f"{replayed} dead letter(s) sent again", {"replayed": replayed, "missing": missing}, form=form)
    if missing:
        click.echo(
            f"pgqrs: There is no dead letter {', '.join(map(str, missing))}; see pgqrs dead-letter list.", err=True
        )
    return running.EXIT_ERROR if missing else 0
