"""What a pod costs its database: one connection at rest, or none between heartbeats."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from pgqrs_operator import certificates
from tests.sidecar.conftest import Observer
from tests.sidecar.processes import HOSTNAME, TOKEN, Pod, eventually
from tests.sidecar.trouble import attended, ends, stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.pgbouncer import PgBouncer
    from tests.support.postgres import PostgresServer

#: How the kernel writes the state of a connection that is open.
_ESTABLISHED = "01"


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


def _is_open(port: int) -> bool:
    """Whether somebody has a connection to this port: what a pooler's server cannot tell, the kernel can."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == _ESTABLISHED for row in rows)


async def _lives_without_a_connection(pod: Pod, database: Observer, port: int) -> None:
    """Go through a pod's whole life; at rest it has no connection to the port."""

    async def rests() -> bool:
        return not _is_open(port)

    sidecar = await pod.sidecar(PGQRS_CONNECTION_MODE="shortLived", PGQRS_HEARTBEAT_SECONDS="2")
    (row,) = await database.rows()
    for _ in range(2):
        await eventually(rests)
        await _beat(database, row["id"])
    async with pod.session() as dying:
        assert (await dying.welcome())["worker_id"] == row["id"]
        message = await database.lease(row["id"])
        await eventually(rests)
    await stopped(database, row["id"])
    assert (await database.message(message))["consumer_worker_id"] is None

    async with pod.session() as session:
        await session.welcome()
        await eventually(rests)
        hook = asyncio.create_task(pod.get("/drain", token=TOKEN))
        drain = await session.next()
        assert drain is not None
        assert drain["type"] == "drain"
        session.send("drained")
        async with attended(session):
            assert json.loads((await hook)[1])["drained"]
        await eventually(rests)
    await ends(sidecar)
    assert await database.rows() == []
    assert sidecar.count(message="database trouble begins") == 0


async def test_short_lived_connections_through_pgbouncer(dsn: str, database: Observer, bouncer: PgBouncer) -> None:
    pod = Pod(bouncer.dsn(urlsplit(dsn).path.lstrip("/")))
    try:
        await _lives_without_a_connection(pod, database, bouncer.port)
    finally:
        await pod.destroy()


async def test_short_lived_connections_with_tls(own_postgres: PostgresServer, own_pod: Pod, tmp_path: Path) -> None:
    certificate = certificates.issue("localhost", now=datetime.now(UTC))
    authority = tmp_path / "ca.crt"
    authority.write_bytes(certificate.authorities)
    leaf = own_postgres.put("leaf.crt", certificate.leaf)
    key = own_postgres.put("leaf.key", certificate.key)
    own_postgres.reload(ssl_cert_file=str(leaf), ssl_key_file=str(key), ssl="on")
    # Whoever is let in without, is not who this is about.
    (own_postgres.data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
    await asyncio.to_thread(own_postgres.stop, "fast")
    await asyncio.to_thread(own_postgres.start)
    own_pod.dsn = f"{own_pod.dsn.replace('127.0.0.1', 'localhost')}?sslmode=verify-full&sslrootcert={authority}"
    await _lives_without_a_connection(own_pod, Observer(own_postgres.dsn()), own_postgres.port)
