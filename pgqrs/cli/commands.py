"""The commands. Each is a thin call of the library; what goes wrong is one line on stderr and exit code 1."""

from __future__ import annotations

import asyncio
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from pgqrs import errors, lifecycle
from pgqrs.admin import Admin
from pgqrs.cli.output import plain, show

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")

_FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", help="For people or for scripts."
)


def _command(function: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a coroutine as a command, and say an error of the library in one line."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def call() -> None:
            await function(*args, **kwargs)

        try:
            asyncio.run(call())
        except errors.PgqrsError as error:
            click.echo(f"pgqrs: {error}", err=True)
            sys.exit(1)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dsn", help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; PGQRS_DSN if not given.")
@click.option("--schema", help="Where the tables are; PGQRS_SCHEMA or public if not given.")
@click.version_option(package_name="pgqrs-kubernetes")
@click.pass_context
def pgqrs(context: click.Context, dsn: str | None, schema: str | None) -> None:
    """Look after pgqrs queues and workers in PostgreSQL."""
    try:
        context.obj = Admin(dsn, schema)
    except errors.PgqrsError as error:
        click.echo(f"pgqrs: {error}", err=True)
        sys.exit(1)


@pgqrs.command()
@click.pass_obj
@_command
async def install(admin: Admin) -> None:
    """Install or upgrade the tables."""
    async with admin:
        await admin.install()
    click.echo(f"installed in schema {admin.database.schema} of {admin.database.where}")


@pgqrs.command()
@click.pass_obj
@_command
async def verify(admin: Admin) -> None:
    """Check the tables without changing anything."""
    async with admin:
        await admin.verify()
    click.echo(f"schema {admin.database.schema} of {admin.database.where} is complete")


@pgqrs.group()
def queue() -> None:
    """Queues."""


@queue.command("create")
@click.argument("name")
@click.pass_obj
@_command
async def create_queue(admin: Admin, name: str) -> None:
    """Make a queue."""
    async with admin:
        created = await admin.create_queue(name)
    click.echo(f"queue {created.queue_name} has id {created.id}")


@queue.command("list")
@_FORMAT
@click.pass_obj
@_command
async def list_queues(admin: Admin, form: str) -> None:
    """List the queues with their messages in five buckets."""
    async with admin:
        rows: list[dict[str, Any]] = []
        for found in await (await admin.get_queues()).list():
            counts = plain(await admin.queue_counts(found.queue_name))
            rows.append({**plain(found), **plain(found.policy), **counts})
    show(rows, form=form, columns=["id", "queue_name", "paused", "ready", "delayed", "leased", "dead", "archived"])


@pgqrs.group()
def worker() -> None:
    """Workers."""


@worker.command("list")
@click.option("--queue", "queue_name", help="Only the workers of this queue.")
@_FORMAT
@click.pass_obj
@_command
async def list_workers(admin: Admin, queue_name: str | None, form: str) -> None:
    """List the workers, stopped ones included."""
    async with admin:
        table = await admin.get_workers()
        found = await (table.list() if queue_name is None else table.filter_by_queue(queue_name))
    rows = [plain(one) for one in found]
    show(rows, form=form, columns=["id", "name", "status", "leased", "heartbeat_at", "stop_reason"])


@worker.command("stop")
@click.option("--id", "worker_id", type=int, required=True, help="The worker's id.")
@click.pass_obj
@_command
async def stop_worker(admin: Admin, worker_id: int) -> None:
    """Stop a worker now; what it holds is free for others."""
    async with admin:
        await lifecycle.get(admin.database, worker_id)
        (released,) = (await lifecycle.stop(admin.database, [worker_id], reason="stopped by hand")).values()
    click.echo(f"worker {worker_id} is stopped; {released} message(s) released")
