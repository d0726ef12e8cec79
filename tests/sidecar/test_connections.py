"""What a pod costs its database: one connection at rest, or none between heartbeats."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from tests.sidecar.processes import HOSTNAME, Pod, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.sidecar.conftest import Observer


async def _connections(database: Observer) -> list[int]:
    """The server's processes that serve the sidecar."""
    found = await database.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()",
        f"pgqrs sidecar {HOSTNAME}",
    )
    return [row["pid"] for row in found]


def _number(database: Observer, number: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return len(await _connections(database)) == number

    return look


async def _beat(database: Observer, worker_id: int) -> None:
    """Wait for the next heartbeat."""
    before = (await database.row(worker_id))["heartbeat_at"]

    async def beaten() -> bool:
        return bool((await database.row(worker_id))["heartbeat_at"] > before)

    await eventually(beaten)


async def test_of_two_connections_one_goes_back_and_the_other_stays(pod: Pod, database: Observer, dsn: str) -> None:
    await pod.sidecar()
    async with pod.session() as session, pod.session(pid=8) as leaving:
        worker_id = (await session.welcome())["worker_id"]
        other_id = (await leaving.welcome())["worker_id"]
        # It goes on answering pings, or its heartbeats would pause.
        answering = asyncio.create_task(session.next(within=60))
        blocker = await asyncpg.connect(dsn)
        try:
            async with blocker.transaction():
                # The heartbeat waits for this row, and meanwhile the end of the other one needs a connection.
                await blocker.execute("SELECT FROM pgqrs_workers WHERE id = $1 FOR UPDATE", worker_id)

                async def waits() -> bool:
                    return bool(await database.fetch("SELECT FROM pg_locks WHERE NOT granted"))

                await eventually(waits)
                leaving.send("goodbye")
                await eventually(_number(database, 2), within=2.5)
        finally:
            await blocker.close()
        await eventually(_number(database, 1))
        assert await database.state(other_id) == "stopped"

        kept = await _connections(database)
        for _ in range(5):
            await _beat(database, worker_id)
            assert await _connections(database) == kept
        answering.cancel()
        await asyncio.wait([answering])


async def test_a_short_lived_connection_is_gone_between_heartbeats(pod: Pod, database: Observer) -> None:
    await pod.sidecar(PGQRS_CONNECTION_MODE="shortLived", PGQRS_HEARTBEAT_SECONDS="2")
    (row,) = await database.rows()
    await eventually(_number(database, 0))
    for _ in range(2):
        await _beat(database, row["id"])
        await eventually(_number(database, 0), within=2.0)
    async with pod.session() as session:
        assert (await session.welcome())["worker_id"] == row["id"]
        session.send("goodbye")
        assert await session.next() == {"type": "bye"}
        assert await database.state(row["id"]) == "stopped"
    await eventually(_number(database, 0))
