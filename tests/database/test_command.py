"""The `pgqrs` command, run as a person would run it: the installed program, its output and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import pgqrs
from pgqrs import lifecycle
from tests.database.test_page import page_blocks

_BIN = Path(sys.executable).parent
_PROGRAM = _BIN / "pgqrs"
_CRONTAB = re.compile(r"^(?:[0-9*/,-]+ ){5}(?=\S)")


def run(dsn: str | None, *arguments: str, stdin: int | None = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_PROGRAM, *arguments],
        env={"PGQRS_DSN": dsn} if dsn else {},
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(dsn: str, *arguments: str) -> Any:
    return json.loads(run(dsn, *arguments, "--format", "json").stdout)


async def _statement(dsn: str, text: str, *args: Any) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(text, *args)
    finally:
        await connection.close()


async def _age(dsn: str, worker_id: int, column: str, age: timedelta) -> None:
    await _statement(dsn, f"UPDATE pgqrs_workers SET {column} = now() - $2::interval WHERE id = $1", worker_id, age)


async def test_install_create_and_list(empty_dsn: str) -> None:
    assert run(empty_dsn, "verify").returncode == 1
    assert run(empty_dsn, "install").returncode == 0
    assert run(empty_dsn, "verify").returncode == 0
    assert run(empty_dsn, "queue", "create", "emails").returncode == 0
    again = run(empty_dsn, "queue", "create", "emails")
    assert again.returncode == 1
    assert "already" in again.stderr
    assert [row["queue_name"] for row in answer(empty_dsn, "queue", "list")] == ["emails"]


async def test_the_parts_of_the_schema_are_installed_one_by_one(empty_dsn: str) -> None:
    early = run(empty_dsn, "install", "--phase", "post")
    assert early.returncode == 1
    assert "pre" in early.stderr
    assert run(empty_dsn, "install", "--phase", "pre").returncode == 0
    assert run(empty_dsn, "verify", "--phase", "pre").returncode == 0
    assert run(empty_dsn, "verify").returncode == 1
    assert run(empty_dsn, "install", "--phase", "post").returncode == 0
    assert run(empty_dsn, "verify").returncode == 0


async def test_roles_are_made(empty_dsn: str) -> None:
    assert run(empty_dsn, "install", "--roles", "Not Allowed").returncode == 1
    assert run(empty_dsn, "install", "--roles", "command_").returncode == 0
    connection = await asyncpg.connect(empty_dsn)
    try:
        assert await connection.fetchval("SELECT has_table_privilege('command_observer', 'pgqrs_queues', 'SELECT')")
    finally:
        # Roles belong to the whole server.
        for kind in ("owner", "producer", "consumer", "observer"):
            await connection.execute(f"REASSIGN OWNED BY command_{kind} TO CURRENT_USER")
            await connection.execute(f"DROP OWNED BY command_{kind}")
            await connection.execute(f"DROP ROLE command_{kind}")
        await connection.close()


async def test_messages_are_counted(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer:
        await producer.enqueue_batch([1, 2])
        await producer.enqueue(3, delay=timedelta(hours=1))
    expected = {"ready": 2, "delayed": 1, "leased": 0, "dead": 0, "archived": 0, "capped": []}
    assert answer(dsn, "queue", "counts", "emails") == [{"queue_name": "emails", **expected}]
    (listed,) = answer(dsn, "queue", "list")
    assert expected.items() <= listed.items()
    await _statement(dsn, "INSERT INTO pgqrs_messages (queue_id, payload) SELECT 1, '1' FROM generate_series(1, 10000)")
    for command in (["queue", "counts", "emails"], ["queue", "list"]):
        assert "10000+" in run(dsn, *command).stdout


async def test_a_purge_asks_first(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        first, _, _ = await producer.enqueue_batch([1, 2, 3])
        await consumer.dequeue()
        await consumer.archive(first)
    unasked = run(dsn, "queue", "purge", "emails")
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "--yes" in unasked.stderr
    assert (await admin.queue_counts("emails")).ready == 2
    assert run(dsn, "queue", "purge", "emails", "--yes").stdout == "2 message(s) removed\n"
    assert await admin.queue_counts("emails") == pgqrs.QueueCounts(archived=1)
    assert answer(dsn, "queue", "purge", "emails", "--archive", "--yes") == {"queue_name": "emails", "removed": 1}


@pytest.mark.parametrize(("reply", "left"), [("y", 0), ("n", 1)])
async def test_at_a_terminal_a_purge_is_confirmed(dsn: str, admin: pgqrs.Admin, reply: str, left: int) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer:
        await producer.enqueue(1)
    terminal, inside = pty.openpty()
    try:
        os.write(terminal, f"{reply}\n".encode())
        result = run(dsn, "queue", "purge", "emails", stdin=inside)
    finally:
        os.close(terminal)
        os.close(inside)
    assert "Remove all live messages of queue emails in " in result.stdout
    assert result.returncode == left
    assert (await admin.queue_counts("emails")).ready == left


async def test_retention_is_shown_changed_and_reaped_by(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    assert run(dsn, "queue", "retention", "emails").stdout.splitlines()[1].split() == ["emails", *["forever"] * 3]
    assert run(dsn, "queue", "retention", "emails", "--archived", "7d", "--workers", "30d").returncode == 0
    assert answer(dsn, "queue", "retention", "emails", "--workers", "forever", "--dead", "0s") == [
        {"queue_name": "emails", "archived": "168h", "dead": "0s", "workers": None}
    ]
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        dead, _ = await producer.enqueue_batch([1, 2])
        await consumer.dequeue(2)
        await consumer.dead_letter(dead, "x")
        await _age(dsn, consumer.worker_id, "heartbeat_at", timedelta(minutes=2))
        assert run(dsn, "reap", "--queue", "emails").stdout.splitlines() == [
            "1 silent worker(s) stopped, 1 message(s) released, 0 message(s) dead",
            "0 archived message(s), 1 dead letter(s), 0 stopped worker(s) removed",
        ]
        await _age(dsn, producer.worker_id, "heartbeat_at", timedelta(minutes=2))
        assert answer(dsn, "reap")["silent_workers"] == {str(producer.worker_id): 0}


async def test_dead_letters_are_listed_and_sent_again(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        first, second, third = await producer.enqueue_batch([{"to": "ü\x1b[2J"}, 2, 3])
        await consumer.dequeue(3)
        await consumer.dead_letter_many([first, second], "no\x1b[2J\nbody")
        await consumer.dead_letter(third, "timeout")
    listed = run(dsn, "dead-letter", "list", "--queue", "emails")
    assert len(listed.stdout.splitlines()) == 4
    assert "no\\x1b[2J\\nbody" in listed.stdout
    assert "\x1b" not in listed.stdout
    page = answer(dsn, "dead-letter", "list", "--queue", "emails", "--reason", "no%", "--after", "1", "--limit", "5")
    assert [(row["id"], row["payload"], row["reason"]) for row in page] == [(second, 2, "no\x1b[2J\nbody")]
    replay = ("dead-letter", "replay")
    assert answer(dsn, *replay, "--queue", "emails", "--reason", "time%") == {"replayed": 1, "missing": []}
    again = run(dsn, *replay, "--id", str(first), "--id", str(third))
    assert (again.returncode, again.stdout) == (1, "1 dead letter(s) sent again\n")
    assert again.stderr == f"pgqrs: There is no dead letter {third}; see pgqrs dead-letter list.\n"
    assert run(dsn, *replay, "--queue", "emails").stdout == "1 dead letter(s) sent again\n"
    assert (await admin.queue_counts("emails")).ready == 3


async def _page_commands(dsn: str, title: str) -> list[subprocess.CompletedProcess[str]]:
    """Run the lines of a shell block of the page in a shell that finds our program."""
    results = []
    for line in page_blocks("bash")[title].code.splitlines():
        # What cron runs is what stands behind the five fields of its time.
        command = _CRONTAB.sub("", line)
        if command and not command.startswith("#"):
            assert command.startswith("pgqrs "), command
            results.append(
                await asyncio.to_thread(
                    subprocess.run,
                    ["/bin/sh", "-c", command],
                    env={"PGQRS_DSN": dsn, "PATH": f"{_BIN}:/usr/bin:/bin"},
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
            )
    return results


def test_every_shell_block_of_the_page_is_run_below() -> None:
    assert list(page_blocks("bash")) == [
        "List Workers 1",
        "Worker Statistics 1",
        "Health Check 1",
        "Stop a Worker 1",
        "Purge Old Workers 1",
        "3. Monitor Worker Health 1",
        "4. Clean Up Stopped Workers 1",
    ]


async def test_the_page_lists_workers(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("tasks")
    await admin.create_queue("other")
    async with pgqrs.Consumer(admin, "tasks", "here", 1), pgqrs.Consumer(admin, "other", "there", 2):
        everybody, tasks = await _page_commands(dsn, "List Workers 1")
    assert (everybody.returncode, tasks.returncode) == (0, 0)
    assert "here:1" in everybody.stdout
    assert re.search(r"^\d+ +there:2 +other +ready ", everybody.stdout, re.MULTILINE)
    assert "here:1" in tasks.stdout
    assert "there:2" not in tasks.stdout


async def test_the_page_counts_workers(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("tasks")
    await admin.create_queue("empty")
    async with (
        pgqrs.Producer(admin, "tasks") as producer,
        pgqrs.Consumer(admin, "tasks") as busy,
        pgqrs.Consumer(admin, "tasks") as paused,
    ):
        silent = await lifecycle.register(admin.database, "tasks", hostname="silent")
        await producer.enqueue_batch([1, 2, 3])
        await busy.dequeue(2)
        await paused.suspend()
        await _age(dsn, silent.id, "heartbeat_at", timedelta(minutes=2))
        (result,) = await _page_commands(dsn, "Worker Statistics 1")
        assert result.returncode == 0
        header, row = result.stdout.splitlines()
        states = "READY POLLING INTERRUPTED SUSPENDED STOPPED"
        assert " ".join(header.split()) == f"QUEUE_NAME {states} SILENT LEASED OLDEST_HEARTBEAT"
        assert row.split()[:8] == ["tasks", "3", "0", "0", "1", "0", "1", "2"]
        assert row.split()[8].startswith("2m")
        rows = answer(dsn, "worker", "stats")
        assert [(one["queue_name"], one["ready"]) for one in rows] == [("empty", 0), ("tasks", 3)]


@pytest.mark.parametrize("title", ["Health Check 1", "3. Monitor Worker Health 1"])
async def test_the_page_checks_health(dsn: str, admin: pgqrs.Admin, title: str) -> None:
    await admin.create_queue("tasks")
    worker = await lifecycle.register(admin.database, "tasks", hostname="here", port=1)
    gone = await lifecycle.register(admin.database, "tasks", hostname="gone")
    await lifecycle.stop(admin.database, [gone.id], reason="gone")
    await _age(dsn, gone.id, "heartbeat_at", timedelta(days=1))
    await _age(dsn, worker.id, "heartbeat_at", timedelta(seconds=200))
    (healthy,) = await _page_commands(dsn, title)
    assert (healthy.returncode, healthy.stdout.splitlines()[-1]) == (0, "1 healthy, 0 stale")
    await _age(dsn, worker.id, "heartbeat_at", timedelta(seconds=310))
    (stale,) = await _page_commands(dsn, title)
    assert (stale.returncode, stale.stdout.splitlines()[-1]) == (3, "0 healthy, 1 stale")
    assert "here:1" in stale.stdout
    # Without --max-age the queue's own heartbeat timeout counts, 60 s.
    await _age(dsn, worker.id, "heartbeat_at", timedelta(seconds=90))
    (one,) = answer(dsn, "worker", "health", "--queue", "tasks")
    assert one["health"] == "stale"
    assert 90 <= one["heartbeat_age_seconds"] < 300
    assert run(dsn, "worker", "health", "--max-age", "5m").returncode == 0


async def test_the_page_stops_a_worker(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("tasks")
    await _statement(dsn, "ALTER TABLE pgqrs_workers ALTER COLUMN id RESTART WITH 42")
    async with pgqrs.Consumer(admin, "tasks") as consumer:
        assert await consumer.start() == 42
        (result,) = await _page_commands(dsn, "Stop a Worker 1")
        assert (result.returncode, result.stdout) == (0, "worker 42 is stopped; 0 message(s) released\n")
        assert await consumer.status() == "stopped"
        (again,) = await _page_commands(dsn, "Stop a Worker 1")
        assert (again.returncode, again.stdout) == (0, "worker 42 was stopped already; 0 message(s) released\n")


async def test_the_page_purges_workers(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("tasks")

    async def stopped(days: int) -> int:
        async with pgqrs.Producer(admin, "tasks", f"days-{days}", 1) as producer:
            await producer.enqueue("a worker that touched a message can be purged too")
            worker_id = await producer.start()
        await _age(dsn, worker_id, "shutdown_at", timedelta(days=days))
        return worker_id

    async def left() -> set[int]:
        return {worker.id for worker in await (await admin.get_workers()).list()}

    six, eight, thirty_one = await stopped(6), await stopped(8), await stopped(31)
    async with pgqrs.Consumer(admin, "tasks") as alive:
        dry = run(dsn, "worker", "purge", "--older-than", "7d", "--dry-run")
        assert "days-8:1" in dry.stdout
        assert dry.stdout.splitlines()[-1] == "2 worker(s) would be removed"
        assert await left() == {six, eight, thirty_one, alive.worker_id}

        removed, by_cron, dry = await _page_commands(dsn, "4. Clean Up Stopped Workers 1")
        assert removed.stdout == "1 worker(s) removed\n"
        assert by_cron.stdout == "1 worker(s) removed\n"
        assert dry.stdout.splitlines()[-1] == "0 worker(s) would be removed"
        assert await left() == {six, alive.worker_id}

        await _age(dsn, six, "shutdown_at", timedelta(days=8))
        (removed,) = await _page_commands(dsn, "Purge Old Workers 1")
        assert removed.stdout == "1 worker(s) removed\n"
        assert await left() == {alive.worker_id}
    assert (await admin.queue_counts("tasks")).ready == 3, "no message goes with a worker"


async def test_many_workers_are_purged_in_slices(admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqrs.reaping._BATCH", 2)
    await admin.create_queue("tasks")
    await admin.create_queue("other")
    for _ in range(5):
        async with pgqrs.Producer(admin, "tasks"):
            pass
    async with pgqrs.Producer(admin, "other"):
        pass
    workers = await admin.get_workers()
    assert await workers.purge(timedelta(hours=1)) == 0
    assert await workers.purge(timedelta(), queue="tasks") == 5
    assert await workers.count() == 1
    with pytest.raises(pgqrs.ValidationError, match="negative"):
        await workers.purge(timedelta(seconds=-1))


async def test_stop_waits_for_what_is_leased(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        await producer.enqueue_batch(["x", "y"])
        (held,) = await consumer.dequeue()
        stopping = asyncio.ensure_future(
            asyncio.to_thread(run, dsn, "worker", "stop", "--id", str(consumer.worker_id), "--drain-timeout", "50s")
        )
        async with asyncio.timeout(20):
            while await consumer.status() != "interrupted":
                await asyncio.sleep(0.02)
            assert await consumer.dequeue() == [], "it gets nothing new while it drains"
            assert not stopping.done()
            assert await consumer.archive(held.id)
            assert (await stopping).stdout == f"worker {consumer.worker_id} is stopped; 0 message(s) released\n"
        assert await consumer.status() == "stopped"


async def test_stop_releases_what_is_not_finished_in_time(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        await producer.enqueue("x")
        (held,) = await consumer.dequeue()
        arguments = ("worker", "stop", "--id", str(consumer.worker_id), "--drain-timeout", "200ms")
        assert answer(dsn, *arguments) == {
            "id": consumer.worker_id, "status": "stopped", "was": "ready", "released": 1
        }  # fmt: skip
        with pytest.raises(pgqrs.WorkerReplacedError):
            await consumer.archive(held.id)
        assert (await admin.queue_counts("emails")).ready == 1


async def test_the_dsn_may_stand_anywhere_and_wins_over_the_environment(dsn: str) -> None:
    nowhere = "postgresql://127.0.0.1:1/nowhere"
    assert run(nowhere, "--dsn", dsn, "worker", "list").returncode == 0
    assert run(nowhere, "worker", "list", "--dsn", dsn).returncode == 0
    assert run(nowhere, "worker", "list").returncode == 1


async def test_another_schema_is_looked_after(empty_dsn: str) -> None:
    await _statement(empty_dsn, "CREATE SCHEMA jobs")
    assert run(empty_dsn, "install", "--schema", "jobs").returncode == 0
    assert run(empty_dsn, "--schema", "jobs", "queue", "create", "emails").returncode == 0
    assert run(empty_dsn, "worker", "stats", "--queue", "emails", "--schema", "jobs").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["worker", "list", "--queue", "nope"],
        ["worker", "stats", "--queue", "nope"],
        ["worker", "health", "--queue", "nope"],
        ["worker", "purge", "--older-than", "1d", "--queue", "nope"],
        ["worker", "purge", "--older-than", "1d", "--queue", "nope", "--dry-run"],
        ["worker", "stop", "--id", "999"],
        ["queue", "counts", "nope"],
        ["queue", "purge", "nope", "--yes"],
        ["queue", "retention", "nope"],
        ["queue", "retention", "nope", "--dead", "1d"],
        ["reap", "--queue", "nope"],
        ["dead-letter", "list", "--queue", "nope"],
        ["dead-letter", "replay", "--queue", "nope"],
    ],
)
async def test_what_is_not_there_is_one_line_and_exit_code_1(dsn: str, arguments: list[str]) -> None:
    result = run(dsn, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "There is no" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["worker", "health", "--max-age", "-1"],
        ["worker", "purge"],
        ["worker", "purge", "--older-than", "7"],
        ["worker", "stop", "--id", "one"],
        ["worker", "stop"],
        ["install", "--phase", "before"],
        ["queue", "purge", "emails"],
        ["queue", "retention", "emails", "--dead", "never"],
        ["dead-letter", "list"],
        ["dead-letter", "list", "--queue", "emails", "--limit", "0"],
        ["dead-letter", "replay"],
        ["dead-letter", "replay", "--queue", "emails", "--id", "1"],
        ["dead-letter", "replay", "--id", "1", "--reason", "x"],
    ],
)
async def test_what_cannot_be_understood_is_exit_code_2(dsn: str, admin: pgqrs.Admin, arguments: list[str]) -> None:
    await admin.create_queue("emails")
    assert run(dsn, *arguments).returncode == 2


@pytest.mark.parametrize("dsn_text", ["postgresql://u:canary-Pa55word@127.0.0.1:1/db", "nonsense:canary-Pa55word"])
def test_what_cannot_work_is_one_line_without_the_password(dsn_text: str) -> None:
    result = run(dsn_text, "verify")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "canary" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["install"],
        ["reap"],
        ["queue", "create"],
        ["queue", "list"],
        ["queue", "purge"],
        ["dead-letter", "replay"],
        ["worker"],
        ["worker", "health"],
        ["worker", "stop"],
    ],
)
def test_help_needs_no_database(arguments: list[str]) -> None:
    result = run(None, *arguments, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage: pgqrs" in result.stdout


def test_without_a_database_the_command_says_where_to_name_it() -> None:
    result = run(None, "worker", "list")
    assert (result.returncode, result.stderr) == (1, "pgqrs: No DSN is given; pass one, or set PGQRS_DSN.\n")


async def test_names_are_shown_as_they_are(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("[red]:smile:[/red]" + "x" * 200)
    assert "[red]:smile:[/red]" + "x" * 200 in run(dsn, "queue", "list").stdout
