"""The commands for workers: who is there, who is silent, stop one, remove what is left of those that stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgqrs.cli import running
from pgqrs.cli.output import plain, say, show
from pgqrs.draining import DEFAULT_DRAIN
from pgqrs.handle import WorkerHandle

if TYPE_CHECKING:
    from datetime import timedelta

    from pgqrs.admin import Admin

_QUEUE = click.option("--queue", "queue_name", help="Only the workers of this queue.")


@click.group(epilog=running.EXIT_CODES)
def worker() -> None:
    """Workers."""


@worker.command("list")
@_QUEUE
@running.FORMAT
@running.command
async def list_workers(admin: Admin, queue_name: str | None, form: str) -> None:
    """List the workers, stopped ones included."""
    table = await admin.get_workers()
    if queue_name is None:
        found = await table.list()
    else:
        found = await table.filter_by_queue(queue_name)
    queues = {queue.id: queue.queue_name for queue in await (await admin.get_queues()).list()}
    rows = [{**plain(one), "queue_name": queues.get(one.queue_id) if one.queue_id else None} for one in found]
    show(rows, form=form, columns=["id", "name", "queue_name", "status", "leased", "heartbeat_at", "stop_reason"])


@worker.command("stats")
@_QUEUE
@running.FORMAT
@running.command
async def worker_stats(admin: Admin, queue_name: str | None, form: str) -> None:
    """Count the workers of each queue by state, and the messages that they hold.

    SILENT are those not stopped whose last heartbeat is older than the queue's heartbeat timeout.
    """
    found = await (await admin.get_workers()).stats(queue_name)
    rows = [plain(one) for one in found]
    if form == "table":
        for row, one in zip(rows, found, strict=True):
            row["oldest_heartbeat"] = running.ago(one.oldest_heartbeat) if one.oldest_heartbeat is not None else None
    columns = ["queue_name", "ready", "polling", "interrupted", "suspended", "stopped", "silent", "leased"]
    show(rows, form=form, columns=[*columns, "oldest_heartbeat"])


@worker.command(
    "health", epilog="Exit codes: 0 all healthy, 1 error, 2 the command line cannot be understood, 3 somebody is stale."
)
@_QUEUE
@click.option(
    "--max-age",
    type=running.Duration(bare_seconds=True),
    help="How old a heartbeat may be, in seconds or as 5m; the queue's heartbeat timeout if not given.",
)
@running.FORMAT
@running.command
async def worker_health(admin: Admin, queue_name: str | None, max_age: timedelta | None, form: str) -> int:
    """Show which workers are silent for too long, by the database's clock; stopped ones are not looked at."""
    found = await (await admin.get_workers()).health(queue_name, max_age=max_age)
    stale = sum(not one.healthy for one in found)
    rows = [
        {
            "id": one.worker.id,
            "name": one.worker.name,
            "queue_name": one.queue_name,
            "status": one.worker.status,
            "leased": one.worker.leased,
            "health": "healthy" if one.healthy else "stale",
            "heartbeat": running.ago(one.age),
            "heartbeat_age_seconds": None if one.age is None else one.age.total_seconds(),
        }
        for one in found
    ]
    show(rows, form=form, columns=["id", "name", "queue_name", "status", "leased", "health", "heartbeat"])
    if form == "table":
        click.echo(f"{len(found) - stale} healthy, {stale} stale")
    return running.EXIT_UNHEALTHY if stale else 0


@worker.command("stop")
@click.option("--id", "worker_id", type=int, required=True, help="The worker's id, from `pgqrs worker list`.")
@click.option(
    "--drain-timeout",
    type=running.Duration(),
    default=DEFAULT_DRAIN,
    show_default="25s",
    help="How long it may go on with what it holds; 0s stops it at once.",
)
@running.FORMAT
@running.command
async def stop_worker(admin: Admin, worker_id: int, drain_timeout: timedelta, form: str) -> None:
    """Drain a worker, then suspend and stop it.

    It gets no more messages and may finish what it holds. What it still holds when its time is up is released for
    others, and it can archive nothing of that any more.
    """
    async with WorkerHandle(admin, worker_id) as handle:
        before = await handle.status()
        released = await handle.drain(drain_timeout)
    already = before == "stopped"
    say(
        f"worker {worker_id} {'was stopped already' if already else 'is stopped'}; {released} message(s) released",
        {"id": worker_id, "status": "stopped", "was": before, "released": released},
        form=form,
    )


@worker.command("purge")
@click.option(
    "--older-than", type=running.Duration(), required=True, help="How long ago they stopped, such as 12h, 7d or 30d."
)
@_QUEUE
@click.option("--dry-run", is_flag=True, help="Only show which would be removed.")
@running.FORMAT
@running.command
async def purge_workers(
    admin: Admin, older_than: timedelta, queue_name: str | None, *, dry_run: bool, form: str
) -> None:
    """Remove the rows of workers that stopped long ago; nobody else is touched, and no message."""
    table = await admin.get_workers()
    if not dry_run:
        removed = await table.purge(older_than, queue=queue_name)
        say(f"{removed} worker(s) removed", {"removed": removed}, form=form)
        return
    found = await table.purgeable(older_than, queue=queue_name)
    show([plain(one) for one in found], form=form, columns=["id", "name", "shutdown_at", "stop_reason"])
    if form == "table":
        click.echo(f"{len(found)} worker(s) would be removed")
