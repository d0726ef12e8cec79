"""The commands for queues: made, listed, counted, emptied, and how long they keep what is over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pgqrs.cli import running
from pgqrs.cli.output import plain, say, show
from pgqrs.models import QueueCounts, QueueRetention

if TYPE_CHECKING:
    from datetime import timedelta

    from pgqrs.admin import Admin
    from pgqrs.models import QueueInfo

_KEPT = running.Duration(or_forever=True)
_COUNTS = ["ready", "delayed", "leased", "dead", "archived"]


@click.group(epilog=running.EXIT_CODES)
def queue() -> None:
    """Queues."""


@queue.command("create")
@click.argument("name")
@running.command
async def create_queue(admin: Admin, name: str) -> None:
    """Make a queue."""
    created = await admin.create_queue(name)
    click.echo(f"queue {created.queue_name} has id {created.id}")


@queue.command("list")
@running.FORMAT
@running.command
async def list_queues(admin: Admin, form: str) -> None:
    """List the queues with their messages in five buckets, each counted up to 10,000."""
    table = await admin.get_queues()
    counts = await table.counts()
    rows: list[dict[str, Any]] = []
    for found in await table.list():
        # One that was made in between has none yet.
        counted = counts.get(found.queue_name, QueueCounts())
        rows.append({**plain(found), **plain(found.policy), **_counted(counted, form=form)})
    show(rows, form=form, columns=["id", "queue_name", "paused", *_COUNTS])


@queue.command("counts")
@click.argument("name")
@running.FORMAT
@running.command
async def count_messages(admin: Admin, name: str, form: str) -> None:
    """Count a queue's messages in five buckets, each up to 10,000; a number that ends in + is a lower bound."""
    counts = await admin.queue_counts(name)
    show([{"queue_name": name, **_counted(counts, form=form)}], form=form, columns=["queue_name", *_COUNTS])


def _counted(counts: QueueCounts, *, form: str) -> dict[str, Any]:
    found: dict[str, Any] = plain(counts)
    return found if form == "json" else found | {name: f"{found[name]}+" for name in counts.capped}


@queue.command("purge")
@click.argument("name")
@click.option("--archive", is_flag=True, help="Also remove archived messages and dead letters.")
@running.YES
@running.FORMAT
@running.command
async def purge_queue(admin: Admin, name: str, *, archive: bool, yes: bool, form: str) -> None:
    """Remove a queue's live messages, those that are being handled included. The queue and its workers stay."""
    await admin.get_queue(name)
    what = "all messages, archived and dead ones included," if archive else "all live messages"
    running.confirm(f"Remove {what} of queue {name} in {admin.database.where}?", yes=yes)
    removed = await admin.purge_queue(name, archive=archive)
    say(f"{removed} message(s) removed", {"queue_name": name, "removed": removed}, form=form)


@queue.command("retention")
@click.argument("name")
@click.option("--archived", type=_KEPT, help="For how long archived messages are kept, such as 7d, or forever.")
@click.option("--dead", type=_KEPT, help="For how long dead letters are kept.")
@click.option("--workers", type=_KEPT, help="For how long stopped workers are kept.")
@running.FORMAT
@running.command
async def set_retention(admin: Admin, name: str, form: str, **given: timedelta | str | None) -> None:
    """Show for how long a queue keeps what is over, or change it; what is not named stays. `pgqrs reap` removes it."""
    found = await admin.get_queue(name)
    changed = {kind: None if kept == running.FOREVER else kept for kind, kept in given.items() if kept is not None}
    if changed:
        wanted: QueueRetention = replace(found.retention, **changed)  # type: ignore[arg-type]
        found = await admin.set_retention(name, wanted)
    _show_retention(found, form=form)


def _show_retention(found: QueueInfo, *, form: str) -> None:
    kept = plain(found.retention)
    if form == "table":
        kept = {kind: length or running.FOREVER for kind, length in kept.items()}
    show([{"queue_name": found.queue_name, **kept}], form=form, columns=["queue_name", *kept])
