"""Runs inside a container of the example: kills the app's process just when it handles messages, and tells when.

It is sent there as text (`kubectl exec ... python -`), so it uses only what the example's image has. The time is the
database's, read by the same statement that saw the messages.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import asyncpg

_SECONDS = 15.0
#: Messages that are being handled this very moment, by worker.
_HANDLED = """
SELECT extract(epoch FROM clock_timestamp())::float8 AS at, w.id AS worker, count(*) AS messages
FROM pgqrs_workers w
JOIN pgqrs_messages m ON m.consumer_worker_id = w.id AND m.archived_at IS NULL
JOIN emails_sent e ON e.message_id = m.id AND e.worker_id = w.id AND e.ended_at IS NULL
WHERE w.pod_uid = $1 AND w.status IN ('ready', 'polling')
GROUP BY w.id
"""


def _process() -> int:
    """Find the app, which is not PID 1: nothing inside of a container can kill that one."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != "1":
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"app.py" in words:
                return int(folder.name)
    message = "no process here runs app.py"
    raise SystemExit(message)


async def _main() -> None:
    connection = await asyncpg.connect(os.environ["PGQRS_DSN"])
    async with asyncio.timeout(_SECONDS):
        while not (rows := await connection.fetch(_HANDLED, os.environ["PGQRS_POD_UID"])):
            await asyncio.sleep(0.01)
    pid = _process()
    workers, messages = [row["worker"] for row in rows], sum(row["messages"] for row in rows)
    # First this: the whole container ends with the app, and this process with it.
    print(json.dumps({"at": rows[0]["at"], "pid": pid, "workers": workers, "messages": messages}), flush=True)
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(_main())
