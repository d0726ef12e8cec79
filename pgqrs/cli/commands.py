"""The commands. Each is a thin call of the library; what goes wrong is one line on stderr and exit code 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from pgqrs.cli import dead_letters, queues, running, workers
from pgqrs.cli.output import plain, say
from pgqrs.schema import Phase

if TYPE_CHECKING:
    from pgqrs.admin import Admin

_PHASES = click.Choice(get_args(Phase))


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=running.EXIT_CODES)
@running.dsn_options
@click.version_option(package_name="pgqrs-kubernetes")
@click.pass_context
def pgqrs(context: click.Context, dsn: str | None, schema: str | None) -> None:
    """Look after pgqrs queues and workers in PostgreSQL."""
    context.obj = running.Target(dsn, schema)


@pgqrs.command()
@click.option(
    "--phase",
    type=_PHASES,
    default="all",
    show_default=True,
    help="pre before new code is rolled out, post when no old code is left, all for both at once.",
)
@click.option(
    "--roles",
    "role_prefix",
    metavar="PREFIX",
    help="Also make the roles PREFIXowner, PREFIXproducer, PREFIXconsumer and PREFIXobserver, with their rights.",
)
@running.command
async def install(admin: Admin, phase: Phase, role_prefix: str | None) -> None:
    """Install or upgrade the tables."""
    await admin.install(phase=phase, role_prefix=role_prefix)
    click.echo(f"installed in schema {admin.database.schema} of {admin.database.where}")


@pgqrs.command()
@click.option(
    "--phase",
    type=_PHASES,
    default="all",
    show_default=True,
    help="Which parts of the migrations must be there; pre is all that this version needs to work.",
)
@running.command
async def verify(admin: Admin, phase: Phase) -> None:
    """Check the tables without changing anything."""
    await admin.verify(phase=phase)
    click.echo(f"schema {admin.database.schema} of {admin.database.where} is complete")


@pgqrs.command()
@click.option("--queue", "queue_name", help="Only this queue.")
@running.FORMAT
@running.command
async def reap(admin: Admin, queue_name: str | None, form: str) -> None:
    """Clear away what is over, as a cron job may do.

    Silent workers are stopped and what they held is free, messages that were leased too often become dead letters, and
    archived messages, dead letters and stopped workers go that their queue's retention keeps no longer. No live message
    is removed. Right after an outage everybody is silent: wait for the time of a heartbeat first.
    """
    reaped = await admin.reap(queue=queue_name)
    released = sum(reaped.silent_workers.values())
    say(
        f"{len(reaped.silent_workers)} silent worker(s) stopped, {released} message(s) released, "
        f"{reaped.exhausted_messages} message(s) dead\n"
        f"{reaped.archived_messages} archived message(s), {reaped.dead_letters} dead letter(s), "
        f"{reaped.stopped_workers} stopped worker(s) removed",
        plain(reaped),
        form=form,
    )


pgqrs.add_command(queues.queue)
pgqrs.add_command(dead_letters.dead_letter)
pgqrs.add_command(workers.worker)
