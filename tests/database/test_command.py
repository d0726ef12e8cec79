"""The `pgqrs` command, run as a person would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pgqrs

_PROGRAM = Path(sys.executable).parent / "pgqrs"


def run(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_PROGRAM, *arguments], env={"PGQRS_DSN": dsn}, capture_output=True, text=True, timeout=60, check=False
    )


async def test_install_create_and_list(empty_dsn: str) -> None:
    assert run(empty_dsn, "verify").returncode == 1
    assert run(empty_dsn, "install").returncode == 0
    assert run(empty_dsn, "verify").returncode == 0
    assert run(empty_dsn, "queue", "create", "emails").returncode == 0
    again = run(empty_dsn, "queue", "create", "emails")
    assert again.returncode == 1
    assert "already" in again.stderr
    assert [row["queue_name"] for row in json.loads(run(empty_dsn, "queue", "list", "--format", "json").stdout)] == [
        "emails"
    ]


async def test_workers_are_listed_and_stopped(dsn: str, admin: pgqrs.Admin) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails", "host", 1) as producer, pgqrs.Consumer(admin, "emails") as consumer:
        await producer.enqueue("x")
        await consumer.dequeue()
        listed = run(dsn, "worker", "list", "--queue", "emails")
        assert "host:1" in listed.stdout
        stopped = run(dsn, "worker", "stop", "--id", str(consumer.worker_id))
        assert "1 message(s) released" in stopped.stdout
        assert (await consumer.status()) == "stopped"
    assert run(dsn, "worker", "stop", "--id", "999").returncode == 1


@pytest.mark.parametrize("dsn_text", ["postgresql://u:canary-Pa55word@127.0.0.1:1/db", "nonsense:canary-Pa55word"])
def test_what_cannot_work_is_one_line_without_the_password(dsn_text: str) -> None:
    result = run(dsn_text, "verify")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "canary" not in result.stdout + result.stderr
