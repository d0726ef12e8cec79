"""What tests of unmodified apps have in common: how such an app registers, and what the sidecar does with its row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sidecar.processes import POD_UID, eventually

if TYPE_CHECKING:
    from tests.sidecar.conftest import Observer


async def insert(database: Observer, name: str) -> int:
    """What a client of upstream does when it registers."""
    (row,) = await database.fetch(
        "INSERT INTO pgqrs_workers (name, queue_id, status) SELECT $1, id, 'ready' FROM pgqrs_queues RETURNING id", name
    )
    return int(row["id"])


async def adopted(database: Observer, worker_id: int) -> None:
    async def look() -> bool:
        return bool((await database.row(worker_id))["pod_uid"] == POD_UID)

    await eventually(look)


async def beaten(database: Observer, worker_id: int) -> None:
    """Wait for two heartbeats, so that one of them began after the call."""
    for _ in range(2):
        before = (await database.row(worker_id))["heartbeat_at"]

        async def look(before: object = before) -> bool:
            return bool((await database.row(worker_id))["heartbeat_at"] != before)

        await eventually(look)
