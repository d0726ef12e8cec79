"""The commands. Each is a thin call of the library; what goes wrong is one line on stderr and exit code 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgqrs.cli import running, workers
from pgqrs.cli.output import plain, show

if TYPE_CHECKING:
    from pgqrs.admin import Admin


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=running.EXIT_CODES)
@running.dsn_options
@click.version_option(package_name="pgqrs-kubernetes")
@click.pass_context
def pgqrs(context: click.Context, dsn: str | None, schema: str | None) -> None:
    """Look after pgqrs queues and workers in PostgreSQL."""
    context.obj = running.Target(dsn, schema)


@pgqrs.command()
@running.command
async def install(admin: Admin) -> None:
    """Install or upgrade the tables."""
    await admin.install()
    click.echo(f"installed in schema {admin.database.schema} of {admin.database.where}")


@pgqrs.command()
@running.command
async def verify(admin: Admin) -> None:
    """Check the tables without changing anything."""
    await admin.verify()
    click.echo(f"schema {admin.database.schema} of {admin.database.where} is complete")


@pgqrs.group()
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
    """List the queues with their messages in five buckets."""
    rows: list[dict[str, Any]] = []
    for found in await (await admin.get_queues()).list():
        counts = plain(await admin.queue_counts(found.queue_name))
        rows.append({**plain(found), **plain(found.policy), **counts})
    show(rows, form=form, columns=["id", "queue_name", "paused", "ready", "delayed", "leased", "dead", "archived"])


pgqrs.add_command(workers.worker)
