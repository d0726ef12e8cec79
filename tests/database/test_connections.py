"""Connections: they heal by themselves, no call outlives its deadline, and nothing dead is waited for."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

import pgqrs
from pgqrs import connecting, statements, watch
from pgqrs.database import Database
from pgqrs_operator import certificates
from tests.support.postgres import PASSWORD, PostgresServer
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.support.pgbouncer import PgBouncer

#: A dead connection is noticed within this (issue 4).
NOTICED_SECONDS = 10


def through(proxy: Proxy, dsn: str) -> str:
    """The same database, by way of the proxy."""
    return dsn.replace(f":{urlsplit(dsn).port}/", f":{proxy.port}/")


async def eventually(look: Callable[[], Awaitable[object]], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not await look():
            await asyncio.sleep(0.02)


async def fails(call: Awaitable[object], within: float = NOTICED_SECONDS) -> pgqrs.DatabaseUnavailableError:
    """Await a call that must find the database unavailable in time, and give the error."""
    async with asyncio.timeout(within):
        with pytest.raises(pgqrs.DatabaseUnavailableError) as caught:
            await call
    assert PASSWORD not in str(caught.value)
    return caught.value


async def count(db: Database) -> int:
    return int(await db.fetch_value("workers.count"))


async def heals(db: Database, within: float = NOTICED_SECONDS) -> None:
    """Try until a call succeeds, as any user of the library does."""

    async def answered() -> bool:
        try:
            await count(db)
        except pgqrs.DatabaseUnavailableError:
            return False
        return True

    await eventually(answered, within)


async def fill(db: Database, connections: int) -> None:
    """Make the pool open this many connections."""
    reached = asyncio.Barrier(connections)

    async def hold() -> None:
        async with db.connection():
            await reached.wait()

    await asyncio.gather(*(hold() for _ in range(connections)))


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    async with Proxy(postgres.port) as opened:
        yield opened


@pytest.fixture
async def proxied(dsn: str, proxy: Proxy) -> AsyncIterator[Database]:
    async with Database(through(proxy, dsn)) as opened:
        yield opened


@pytest.fixture
async def observer(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that no fault touches."""
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


@pytest.fixture
def servers() -> Iterator[list[PostgresServer]]:
    """Servers of the test's own; whatever it puts in here is removed."""
    made: list[PostgresServer] = []
    yield made
    for server in made:
        server.destroy()


@asynccontextmanager
async def locked(dsn: str) -> AsyncIterator[None]:
    """Let every statement on the workers wait, on a connection that no fault touches."""
    holder = await asyncpg.connect(dsn)
    try:
        async with holder.transaction():
            await holder.execute("LOCK pgqrs_workers")
            yield
    finally:
        await holder.close()


async def running(observer: asyncpg.Connection | asyncpg.Pool, text: str) -> bool:
    """Whether the server is at work on a statement with this text, and not waiting for its client."""
    found = await observer.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event IS DISTINCT FROM 'ClientRead' "
        "AND query LIKE $1 AND pid <> pg_backend_pid()",
        f"%{text}%",
    )
    return bool(found)


async def test_nothing_is_opened_before_the_first_call_and_never_more_than_allowed(
    dsn: str, observer: asyncpg.Connection
) -> None:
    async def opened() -> int:
        return int(await observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bounded'"))

    async with Database(dsn, max_connections=3, application_name="bounded") as db:
        assert await opened() == 0
        await fill(db, 3)
        await asyncio.gather(*(count(db) for _ in range(50)))
        assert await opened() == 3
    await eventually(lambda: _is(opened, 0))


async def _is(look: Callable[[], Awaitable[object]], wanted: object) -> bool:
    return await look() == wanted


async def test_a_connection_that_nobody_uses_is_closed_and_the_used_one_stays(
    dsn: str, observer: asyncpg.Connection
) -> None:
    async def opened() -> list[int]:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'idle'"
        return [row["pid"] for row in await observer.fetch(query)]

    async with Database(dsn, application_name="idle", idle_seconds=1.0) as db:
        async with db.connection(), db.connection():
            assert len(await opened()) == 2

        async def one_is_left() -> bool:
            await count(db)
            return len(await opened()) == 1

        await eventually(one_is_left)
        await eventually(lambda: _is(opened, []))
        await count(db)
        assert len(await opened()) == 1


async def test_a_distant_server_is_not_taken_for_one_with_old_plans(dsn: str, proxy: Proxy) -> None:
    """Every answer takes longer than one that a plan makes slow; the statements are planned once all the same."""
    proxy.delay = 0.01
    query = "SELECT prepare_time FROM pg_prepared_statements WHERE statement = $1"
    async with Database(through(proxy, dsn), max_connections=1) as db:
        await count(db)
        async with db.connection() as connection:
            planned = await connection.fetchval(query, statements.statement("workers.count", "public"))
        assert planned is not None
        for _ in range(150):
            await count(db)
        async with db.connection() as connection:
            assert await connection.fetchval(query, statements.statement("workers.count", "public")) == planned


async def test_a_new_connection_asks_nothing_about_the_types_of_our_statements(dsn: str) -> None:
    ours = ("fleet", "fleet_reports", "messages", "notify", "pods", "queues", "reaping", "workers")
    names = [name for name in statements.names() if name.startswith(tuple(f"{file}." for file in ours))]
    async with Database(dsn) as db, db.connection() as connection:
        for name in names:
            await connection.prepare(statements.statement(name, "public"))
        query = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE $1"
        assert await connection.fetchval(query, "%typeinfo%") == 0


@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_a_restarted_server_is_found_again(servers: list[PostgresServer], mode: str) -> None:
    server = PostgresServer()
    servers.append(server)
    server.create()
    async with pgqrs.Admin(server.dsn()) as admin:
        await admin.install()
        await fill(admin.database, 3)
        server.stop(mode)
        await fails(count(admin.database))
        await fails(count(admin.database))
        server.start()
        await heals(admin.database)


async def test_a_server_that_turned_read_only_is_left_for_the_new_primary(servers: list[PostgresServer]) -> None:
    """The old primary stays up, as after a switch-over: its connections are as good as dead, though none breaks."""
    old = PostgresServer()
    servers.append(old)
    old.create()
    async with pgqrs.Admin(old.dsn()) as admin:
        await admin.install()
        await admin.create_queue("emails")
    new = old.standby()
    servers.append(new)
    dsn = old.dsn().replace(f":{old.port}/", f":{new.port},127.0.0.1:{old.port}/")

    async with pgqrs.Admin(dsn) as admin:

        async def served_by() -> int:
            async with admin.database.connection() as connection:
                return int(await connection.fetchval("SHOW port"))

        assert await served_by() == old.port, "the standby takes no writes"
        await fill(admin.database, 3)
        new.promote()
        old.reload(default_transaction_read_only="on")

        async def turned() -> bool:
            async with admin.database.connection() as connection:
                return bool(await connection.fetchval("SELECT current_setting('transaction_read_only')::boolean"))

        await eventually(turned)
        await fails(admin.create_queue("letters"))
        await admin.create_queue("letters")
        assert {await served_by() for _ in range(5)} == {new.port}
        # And it is the first to be asked from now on, also when the old one is gone.
        old.stop()
        await fill(admin.database, 4)
        assert await served_by() == new.port


async def test_a_first_host_that_swallows_does_not_keep_us_from_the_second(dsn: str, proxy: Proxy) -> None:
    proxy.swallowing = True
    port = urlsplit(dsn).port
    async with Database(dsn.replace(f":{port}/", f":{proxy.port},127.0.0.1:{port}/")) as db:
        async with asyncio.timeout(NOTICED_SECONDS):
            await count(db)
        tried = proxy.accepted
        await fill(db, 3)
        assert proxy.accepted == tried, "the host that served is asked first"


async def test_a_server_that_falls_silent_after_the_login_has_no_more_time_than_before(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: connecting.Connection) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(connecting.Connection, "keep_statements", silent)
    async with Database(dsn) as db:
        await fails(count(db))


async def test_cut_connections_are_replaced(proxied: Database, proxy: Proxy) -> None:
    await fill(proxied, 4)
    proxy.cut()
    await heals(proxied)
    await asyncio.gather(*(count(proxied) for _ in range(4)))


async def test_a_statement_whose_connection_is_cut_fails_at_once(
    dsn: str, proxied: Database, proxy: Proxy, observer: asyncpg.Connection
) -> None:
    async with locked(dsn):
        waiting = asyncio.create_task(count(proxied))
        await eventually(lambda: running(observer, "pgqrs_workers"))
        proxy.cut()
        await fails(waiting)
    await count(proxied)


async def test_dead_idle_connections_are_noticed_once_and_all_left(proxied: Database, proxy: Proxy) -> None:
    await fill(proxied, 4)
    for link in list(proxy.links):
        link.swallow()
    await fails(count(proxied))
    # The others are just as dead; nobody has to find out one by one.
    async with asyncio.timeout(NOTICED_SECONDS / 4):
        await asyncio.gather(*(count(proxied) for _ in range(8)))


async def test_a_line_that_dies_under_a_statement_or_a_transaction_is_noticed(
    dsn: str, proxied: Database, proxy: Proxy, observer: asyncpg.Connection
) -> None:
    async def transaction(timeout: float | None = None) -> None:
        async with proxied.transaction(timeout=timeout) as open_transaction:
            await open_transaction.fetch_value("workers.count")

    await fill(proxied, 3)
    async with locked(dsn):
        calls = [asyncio.create_task(call) for call in (count(proxied), transaction(), transaction(timeout=600))]
        await eventually(lambda: running(observer, "pgqrs_workers"))
        proxy.swallow()
        await asyncio.gather(*map(fails, calls))
    proxy.heal()
    await heals(proxied)


async def test_a_database_behind_a_black_hole_is_said_to_be_unavailable_and_closing_does_not_hang(
    dsn: str, proxy: Proxy
) -> None:
    db = Database(through(proxy, dsn))
    await fill(db, 4)
    proxy.swallow()
    await asyncio.gather(*(fails(count(db)) for _ in range(4)))
    async with asyncio.timeout(NOTICED_SECONDS):
        await db.aclose()


async def test_idle_connections_in_a_black_hole_do_not_keep_a_client_from_closing(dsn: str, proxy: Proxy) -> None:
    db = Database(through(proxy, dsn))
    await fill(db, 4)
    proxy.swallow()
    async with asyncio.timeout(NOTICED_SECONDS):
        await db.aclose()


async def test_a_statement_that_really_waits_is_left_in_peace(dsn: str, proxied: Database) -> None:
    """Somebody looks after it twice meanwhile, and sees that the server is at work."""
    async with locked(dsn):
        waiting = asyncio.create_task(count(proxied))
        done, _ = await asyncio.wait([waiting], timeout=8)
        assert not done
    assert await waiting == 0


async def test_a_process_without_a_file_to_spare_does_not_take_its_server_for_dead(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 0.05)
    looks: list[OSError] = []
    look = connecting.Connector.open

    async def note(self: connecting.Connector, *args: object, **more: object) -> connecting.Connection:
        try:
            return await look(self, *args, **more)
        except OSError as error:
            looks.append(error)
            raise

    async with Database(dsn) as db, locked(dsn):
        await fill(db, 2)
        monkeypatch.setattr(connecting.Connector, "open", note)
        waiting = asyncio.create_task(count(db))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            async with asyncio.timeout(20):
                while len(looks) < 3:
                    assert not waiting.done(), waiting.result()
                    await asyncio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in str(looks[-1])
        waiting.cancel()


async def test_a_deadline_holds_for_the_whole_call_and_the_statement_ends_with_it(
    dsn: str, observer: asyncpg.Connection
) -> None:
    async with Database(dsn, timeout=1, max_connections=1) as db, locked(dsn):
        first, second = asyncio.create_task(count(db)), asyncio.create_task(count(db))
        await fails(first)
        assert "in use" in str(await fails(second))
        await eventually(lambda: _is(lambda: running(observer, "pgqrs_workers"), wanted=False), within=NOTICED_SECONDS)


async def test_a_cancelled_call_returns_at_once_and_leaves_nothing_running(
    dsn: str, observer: asyncpg.Connection
) -> None:
    async with Database(dsn, max_connections=1) as db:
        async with locked(dsn):
            call = asyncio.create_task(count(db))
            await eventually(lambda: running(observer, "pgqrs_workers"))
            call.cancel()
            assert await asyncio.wait([call], timeout=1) == ({call}, set())
            assert call.cancelled()
            await eventually(lambda: _is(lambda: running(observer, "pgqrs_workers"), wanted=False))
        assert await count(db) == 0


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("timeout", [2.5, 30.0])
async def test_a_call_into_a_black_hole_ends_when_its_caller_or_its_deadline_says(
    dsn: str, proxy: Proxy, observer: asyncpg.Connection, timeout: float, *, in_transaction: bool
) -> None:
    """Asking a dead line to cancel or to roll back is not waited for, and the pool does not go without its place."""

    async def transaction(db: Database) -> None:
        async with db.transaction() as opened:
            await opened.fetch_value("workers.count")

    call = transaction if in_transaction else count
    async with Database(through(proxy, dsn), max_connections=1, timeout=timeout) as db:
        async with locked(dsn):
            calling = asyncio.create_task(call(db))
            await eventually(lambda: running(observer, "pgqrs_workers"))
            for link in list(proxy.links):
                link.swallow()
            if timeout < 30:
                await fails(calling, within=4)
            else:
                calling.cancel()
                assert await asyncio.wait([calling], timeout=5) == ({calling}, set())
        async with asyncio.timeout(5):
            await count(db)


async def test_a_transaction_that_fails_is_rolled_back_and_its_connection_is_used_again(dsn: str) -> None:
    async with Database(dsn, max_connections=1) as db:

        async def fail() -> None:
            async with db.transaction() as transaction:
                await transaction.execute("INSERT INTO pgqrs_queues (queue_name) VALUES ('emails')")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await db.fetch("queues.list") == []


@asynccontextmanager
async def sending(dsn: str, timeout: float) -> AsyncIterator[pgqrs.Producer]:
    """A producer each of whose calls has this many seconds, and a queue."""
    async with pgqrs.Admin(dsn) as admin:
        await admin.create_queue("emails")
        async with pgqrs.Producer(admin, "emails") as producer:
            await producer.enqueue("first")
            admin.database.timeout = timeout
            yield producer
            admin.database.timeout = 30.0


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("key", [None, "once"])
async def test_sending_on_a_dead_connection_of_the_app_ends_with_the_deadline(
    dsn: str, proxy: Proxy, key: str | None, *, in_transaction: bool
) -> None:
    connection = await asyncpg.connect(through(proxy, dsn))
    try:
        if in_transaction:
            await connection.transaction().start()
        async with sending(dsn, timeout=0.5) as producer:
            proxy.swallow()
            await fails(producer.enqueue("lost", key=key, connection=connection))
        begins = key is not None and not in_transaction
        assert connection.is_closed() is begins, "only one that may be in a transaction of ours is taken from the app"
    finally:
        connection.terminate()


async def test_a_line_that_dies_under_a_message_of_the_app_does_not_commit_a_part_later(
    dsn: str, proxy: Proxy, observer: asyncpg.Connection
) -> None:
    connection = await asyncpg.connect(through(proxy, dsn))
    async with sending(dsn, timeout=2.0) as producer:
        async with observer.transaction():
            await observer.execute("LOCK pgqrs_messages")
            sent = asyncio.create_task(producer.enqueue_batch([1, 2], keys=["a", "b"], connection=connection))
            async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
                await eventually(lambda: running(pool, "pgqrs_messages"))
            proxy.swallow()
            await fails(sent)
        assert connection.is_closed(), "whether it is in a transaction of ours nobody knows"
        assert await observer.fetchval("SELECT count(*) FROM pgqrs_messages") == 1


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_deadline_leaves_the_app_its_connection_and_its_transaction(
    dsn: str, observer: asyncpg.Connection, *, in_transaction: bool
) -> None:
    connection = await asyncpg.connect(dsn)
    async with sending(dsn, timeout=0.5) as producer:
        block = connection.transaction() if in_transaction else None
        if block:
            await block.start()
        async with observer.transaction():
            await observer.execute("LOCK pgqrs_messages")
            await fails(producer.enqueue("late", key="once", connection=connection))
        assert connection.is_in_transaction() is in_transaction
        await producer.enqueue("in time", key="once", connection=connection)
        if block:
            await block.commit()
        payloads = [row["payload"] for row in await observer.fetch("SELECT payload FROM pgqrs_messages ORDER BY id")]
        assert payloads == ['"first"', '"in time"']
    await connection.close()


async def test_the_kernel_watches_the_line(dsn: str) -> None:
    async with Database(dsn) as db, db.connection() as connection:
        line = getattr(connection, "_transport").get_extra_info("socket")  # noqa: B009 - asyncpg shows it to nobody
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            assert 0 < line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) < NOTICED_SECONDS * 1000


async def test_the_server_is_asked_to_watch_the_line_too(dsn: str) -> None:
    """A client that vanished may not keep its locks for the two hours that the server's system would wait."""
    async with Database(dsn, timeout=7) as db, db.connection() as connection:
        if sys.platform == "linux":
            assert 0 < int(await connection.fetchval("SELECT current_setting('tcp_keepalives_idle')")) <= 60
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "14s"


async def test_closing_that_is_cancelled_leaves_no_connection_open(dsn: str, observer: asyncpg.Connection) -> None:
    async def opened() -> int:
        return int(await observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'leaving'"))

    db = Database(dsn, application_name="leaving")
    await fill(db, 3)
    db.listener.want()

    async def hears() -> bool:
        return db.listener.hears

    await eventually(hears)
    assert await opened() == 4
    closing = asyncio.create_task(db.aclose())
    # It waits for the listener now, which says goodbye to the server.
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    await eventually(lambda: _is(opened, 0))


async def test_a_closed_client_says_so(dsn: str) -> None:
    db = Database(dsn)
    await count(db)
    await db.aclose()
    await db.aclose()
    with pytest.raises(pgqrs.ConfigurationError, match="is closed; make a new one"):
        await count(db)


def test_a_second_event_loop_is_told_to_make_its_own(postgres: PostgresServer) -> None:
    db = Database(postgres.dsn())

    async def use() -> None:
        async with db.connection() as connection:
            await connection.execute("SELECT")

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(use())
        with pytest.raises(pgqrs.ConfigurationError, match="another event loop"):
            second.run(use())
        with pytest.raises(pgqrs.ConfigurationError, match="another event loop"):
            second.run(db.aclose())
        first.run(use())
        first.run(db.aclose())


def test_what_a_loop_left_behind_can_be_closed_in_the_next(unused_tcp_port: int) -> None:
    db = Database(f"postgresql://127.0.0.1:{unused_tcp_port}/nothing")
    with pytest.raises(pgqrs.DatabaseUnavailableError):
        asyncio.run(db.fetch("queues.list"))
    with pytest.raises(pgqrs.ConfigurationError, match="another event loop"):
        asyncio.run(db.fetch("queues.list"))
    asyncio.run(db.aclose())


async def test_a_refused_login_is_no_outage(dsn: str) -> None:
    async with Database(dsn.replace(PASSWORD, "wrong-canary")) as db:
        with pytest.raises(pgqrs.DatabaseError, match="user and password") as caught:
            await count(db)
    assert not isinstance(caught.value, pgqrs.DatabaseUnavailableError)
    assert "wrong-canary" not in str(caught.value)


@pytest.mark.parametrize("options", ["sslmode=sometimes", "sslmode", "target_session_attrs=whatever"])
async def test_a_dsn_that_asks_for_nonsense_is_a_setting_to_correct(dsn: str, options: str) -> None:
    async with Database(f"{dsn}?{options}") as db:
        with pytest.raises(pgqrs.ConfigurationError, match="The DSN") as caught:
            await count(db)
    assert PASSWORD not in str(caught.value)


async def test_a_value_that_fits_no_column_is_no_outage(dsn: str) -> None:
    async with Database(dsn) as db:
        with pytest.raises(pgqrs.DatabaseError, match="refused the statement: invalid input") as caught:
            await db.fetch_value("workers.status", 2**70)
    assert not isinstance(caught.value, pgqrs.DatabaseUnavailableError)


@pytest.fixture
async def authorities(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[dict[str, Path]]:
    """The server speaks TLS with a private authority's certificate; beside its authority there is a wrong one."""
    right, wrong = (certificates.issue("localhost", now=datetime.now(UTC)) for _ in range(2))
    files = {}
    for name, certificate in (("right", right), ("wrong", wrong)):
        files[name] = tmp_path / f"{name}.crt"
        files[name].write_bytes(certificate.authorities)
    leaf, key = postgres.put("leaf.crt", right.leaf), postgres.put("leaf.key", right.key)
    postgres.reload(ssl_cert_file=str(leaf), ssl_key_file=str(key), ssl="on")

    async def encrypted() -> bool:
        try:
            connection = await asyncpg.connect(postgres.dsn(), ssl="require")
        except ConnectionError:
            return False
        await connection.close()
        return True

    await eventually(encrypted)
    yield files
    postgres.reload(ssl="off")


async def test_a_private_authority_is_trusted_when_the_dsn_names_it(
    dsn: str, authorities: dict[str, Path], tmp_path: Path
) -> None:
    def address(authority: Path, host: str = "localhost") -> str:
        return f"{dsn.replace('127.0.0.1', host)}?sslmode=verify-full&sslrootcert={authority}"

    async with Database(address(authorities["right"])) as db, db.connection() as connection:
        assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    async with Database(address(authorities["wrong"])) as db:
        assert "sslrootcert" in str(await fails(count(db)))
    async with Database(address(authorities["right"], "127.0.0.1")) as db:
        assert "mismatch" in str(await fails(count(db)))
    async with Database(address(tmp_path / "missing.crt")) as db:
        with pytest.raises(pgqrs.ConfigurationError, match=r"missing\.crt, which is not there"):
            await count(db)


async def test_pgbouncer_in_transaction_mode_may_stand_between(dsn: str, bouncer: PgBouncer) -> None:
    """More clients than server connections: every statement may meet another session."""
    shared = bouncer.dsn(urlsplit(dsn).path.lstrip("/"))
    async with pgqrs.Admin(shared) as admin:
        await admin.install()
        await admin.verify()
        await admin.create_queue("emails")

        async def produce(number: int) -> None:
            async with pgqrs.Producer(shared, "emails") as producer:
                await asyncio.gather(*(producer.enqueue([number, n]) for n in range(20)))

        received: list[tuple[int, int]] = []

        async def consume() -> None:
            async with pgqrs.Consumer(shared, "emails") as consumer:
                while len(received) < 80:
                    messages = await consumer.dequeue(3)
                    received.extend(tuple(message.payload) for message in messages)
                    await consumer.archive_many([message.id for message in messages])
                assert await consumer.drain() == 0

        async with asyncio.timeout(60):
            await asyncio.gather(*(produce(n) for n in range(4)), *(consume() for _ in range(4)))
        assert sorted(received) == [(number, n) for number in range(4) for n in range(20)]
        assert (await admin.queue_counts("emails")).archived == 80
        # Behind a pooler nobody knows which backend serves whom, so a slow statement is given its time.
        async with asyncio.timeout(20), admin.database.connection() as connection:
            started = time.monotonic()
            await admin.database.answer(connection, connection.execute("SELECT pg_sleep(5)"))
            assert time.monotonic() - started >= 5
