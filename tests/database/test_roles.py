"""The four group roles, tried by real logins: what each needs works, and everything else is refused."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

import pgqrs
from pgqrs import lifecycle, pods, roles
from pgqrs.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

POD = pgqrs.PodIdentity(uid="u-1", name="web", namespace="shop")

#: Every right that a role has in the schema, table by table: rights on all columns, and rights on some.
_RIGHTS = """
SELECT table_name::text AS name, lower(privilege_type) AS privilege, '*' AS columns
FROM information_schema.role_table_grants WHERE grantee = $1 AND table_schema = $2
UNION ALL
SELECT c.table_name, lower(c.privilege_type), string_agg(c.column_name, ' ' ORDER BY k.ordinal_position)
FROM information_schema.column_privileges c
JOIN information_schema.columns k USING (table_schema, table_name, column_name)
WHERE c.grantee = $1 AND c.table_schema = $2 AND NOT EXISTS (
    SELECT FROM information_schema.role_table_grants g
    WHERE g.grantee = c.grantee AND g.table_schema = c.table_schema AND g.table_name = c.table_name
      AND g.privilege_type = c.privilege_type)
GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Crew:
    """The roles of one test, a database with their rights, and logins that are members of them."""

    dsn: str
    prefix: str
    connection: asyncpg.Connection

    @asynccontextmanager
    async def login(self, *kinds: str) -> AsyncIterator[str]:
        """A login that is a member of these roles, as the address that it connects with."""
        name, password = f"login_{secrets.token_hex(4)}", secrets.token_hex(8)
        members = ", ".join(self.prefix + kind for kind in kinds)
        await self.connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {members}")
        address = urlsplit(self.dsn)
        try:
            yield address._replace(netloc=f"{name}:{password}@{address.hostname}:{address.port}").geturl()
        finally:
            await self.connection.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}")
            await self.connection.execute(f"DROP ROLE {name}")

    async def rights(self, kind: str) -> dict[tuple[str, str], str]:
        """What a role may do, as (table, privilege) → columns."""
        rows = await self.connection.fetch(_RIGHTS, self.prefix + kind, "public")
        return {(row["name"], row["privilege"]): row["columns"] for row in rows}


@pytest.fixture
async def crew(dsn: str, admin: pgqrs.Admin) -> AsyncIterator[Crew]:
    """Roles belong to the whole server, so each test has a prefix of its own and removes its roles."""
    prefix = f"crew{secrets.token_hex(4)}_"
    await admin.install(role_prefix=prefix)
    await admin.create_queue("emails")
    connection = await asyncpg.connect(dsn)
    yield Crew(dsn, prefix, connection)
    await _remove_roles(connection, prefix)
    await connection.close()


async def _remove_roles(connection: asyncpg.Connection, prefix: str) -> None:
    for name in roles.role_names(prefix).values():
        if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
            await connection.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


async def test_a_producer_does_its_whole_job(crew: Crew, admin: pgqrs.Admin) -> None:
    await admin.set_policy("emails", pgqrs.QueuePolicy(deduplication_window=timedelta(hours=1)))
    # A server whose owner lets nobody call functions by default.
    await crew.connection.execute("REVOKE EXECUTE ON FUNCTION pgqrs_check_key FROM PUBLIC")
    async with crew.login("producer") as dsn, pgqrs.Admin(dsn) as limited:
        await limited.verify()
        async with pgqrs.Producer(limited, "emails", "host", 1) as producer:
            await producer.enqueue("x")
            await producer.enqueue_batch([1, 2])
            assert await producer.enqueue(3, key="a", headers={"trace": 1}) == await producer.enqueue(4, key="a")
            await producer.heartbeat()
            await producer.suspend()
            await producer.resume()
            # A restart under the same name takes it from whoever died under it.
            async with pgqrs.Producer(limited, "emails", "host", 1, replace=True) as again:
                await again.enqueue("y")
                await again.drain()
        await limited.queue_counts("emails")
    assert (await admin.queue_counts("emails")).ready == 5


async def test_a_consumer_does_its_whole_job(crew: Crew, admin: pgqrs.Admin) -> None:
    async with pgqrs.Producer(admin, "emails") as producer:
        sent = await producer.enqueue_batch([1, 2, 3, 4])
    async with crew.login("consumer") as dsn, pgqrs.Admin(dsn) as limited:
        await limited.verify()
        async with pgqrs.Consumer(limited, "emails", "host", 1) as consumer:
            assert [message.id for message in await consumer.dequeue(4)] == sent
            assert await consumer.archive(sent[0])
            assert await consumer.delete(sent[1])
            assert await consumer.release(sent[2])
            assert await consumer.drain(timedelta()) == 1
        async with pgqrs.Consumer(limited, "emails", "host", 1) as consumer:
            assert [message.id for message in await consumer.dequeue(4)] == sent[2:]


@pytest.mark.parametrize("archive", [True, False])
async def test_a_consumer_runs_its_handlers(crew: Crew, admin: pgqrs.Admin, *, archive: bool) -> None:
    """What one run does: leases, fails, renews, completes, and gives back."""
    async with pgqrs.Producer(admin, "emails") as producer:
        await producer.enqueue_batch(["good", "bad", "hopeless", "slow"])
    begun, renewed = asyncio.Event(), asyncio.Event()

    async def handle(message: pgqrs.Message) -> None:
        if message.payload == "hopeless":
            raise pgqrs.DeadLetter(message.payload)
        if message.payload == "bad":
            raise pgqrs.Retry(after=timedelta(hours=1))
        if message.payload == "slow":
            begun.set()
            await renewed.wait()

    async with crew.login("consumer") as dsn, pgqrs.Consumer(dsn, "emails") as consumer:
        run = asyncio.create_task(consumer.run(handle, archive=archive, lease=timedelta(seconds=1)))
        await begun.wait()
        (first,) = await crew.connection.fetch("SELECT id, vt FROM pgqrs_messages WHERE payload = '\"slow\"'")
        async with asyncio.timeout(20):
            while (
                await crew.connection.fetchval("SELECT vt FROM pgqrs_messages WHERE id = $1", first["id"])
                == first["vt"]
            ):
                await asyncio.sleep(0.05)
        run.cancel()
        await asyncio.wait([run])
    counts = await admin.queue_counts("emails")
    assert (counts.ready, counts.delayed, counts.dead, counts.archived) == (1, 1, 1, int(archive))


async def test_a_sidecar_does_its_job_with_the_rights_of_its_app(crew: Crew) -> None:
    for kind in ("producer", "consumer"):
        async with crew.login(kind) as dsn, Database(dsn) as database:
            worker = await lifecycle.register(database, "emails", hostname=kind, pod=POD)
            assert list(await pods.beat(database, POD.uid)) == [worker.id]
            assert await pods.assign(database, worker.id, pod_uid=POD.uid, queue="emails", container="app")
            # What an unmodified app in the same pod does.
            app = await database.fetch_value("workers.insert", POD.name, None, None, None, None, None, None, None)
            assert await pods.adopt(database, POD, seconds=0) == pods.Adopted(frozenset({app}), frozenset())
            process = await lifecycle.register(database, "emails", hostname=kind, pod=POD)
            assert await lifecycle.stop(database, [process.id], reason=lifecycle.DIED, died=True) == {process.id: 0}
            await pods.begin_termination(database, POD.uid)
            await pods.suspend(database, POD.uid)
            assert await pods.stop(database, POD.uid, reason="ended") == {worker.id: 0, app: 0}


async def test_a_sidecar_of_a_consumer_frees_what_its_process_died_under(crew: Crew, admin: pgqrs.Admin) -> None:
    async with pgqrs.Producer(admin, "emails") as producer, crew.login("consumer") as dsn, Database(dsn) as database:
        await producer.enqueue("x")
        async with pgqrs.Consumer(dsn, "emails") as consumer:
            assert len(await consumer.dequeue()) == 1
            released = await lifecycle.stop(database, [consumer.worker_id], reason=lifecycle.DIED, died=True)
            assert released == {consumer.worker_id: 1}


async def test_an_observer_counts_and_lists(crew: Crew, admin: pgqrs.Admin) -> None:
    async with pgqrs.Producer(admin, "emails") as producer, crew.login("observer") as dsn, pgqrs.Admin(dsn) as limited:
        await producer.enqueue("x")
        await limited.verify()
        assert (await limited.queue_counts("emails")).ready == 1
        assert [queue.queue_name for queue in await (await limited.get_queues()).list()] == ["emails"]
        assert [worker.id for worker in await (await limited.get_workers()).list()] == [producer.worker_id]
        assert await (await limited.get_messages()).count() == 1
        with pytest.raises(pgqrs.DatabaseError, match="permission denied"):
            await limited.create_queue("more")
        with pytest.raises(pgqrs.DatabaseError, match="permission denied"):
            await pgqrs.Consumer(limited, "emails").start()


async def test_an_owner_installs_and_looks_after_everything(crew: Crew) -> None:
    async with crew.login("owner") as dsn, pgqrs.Admin(dsn) as limited:
        await limited.install()
        await limited.create_queue("more")
        await limited.delete_queue("more")
        async with pgqrs.Producer(limited, "emails") as producer, pgqrs.Consumer(limited, "emails") as consumer:
            await producer.enqueue("x")
            assert len(await consumer.dequeue()) == 1
        connection = await asyncpg.connect(dsn)
        await connection.execute("ALTER TABLE pgqrs_messages ADD COLUMN later text")
        await connection.close()


REGISTER = "INSERT INTO pgqrs_workers (name) VALUES ('x')"
REFUSED = {
    "producer": [
        "SELECT payload FROM pgqrs_messages",
        "SELECT * FROM pgqrs_messages",
        "UPDATE pgqrs_messages SET archived_at = now()",
        "UPDATE pgqrs_messages SET payload = '1'",
        "UPDATE pgqrs_messages SET read_ct = 0",
        "DELETE FROM pgqrs_messages",
    ],
    "consumer": [
        "INSERT INTO pgqrs_messages (queue_id, payload) VALUES (1, '1')",
        "UPDATE pgqrs_messages SET payload = '1'",
        "UPDATE pgqrs_messages SET queue_id = 1",
        "SELECT nextval('pgqrs_messages_id_seq')",
    ],
    "observer": [
        "SELECT payload FROM pgqrs_messages",
        "INSERT INTO pgqrs_messages (queue_id, payload) VALUES (1, '1')",
        "UPDATE pgqrs_messages SET vt = now()",
        "DELETE FROM pgqrs_messages",
        REGISTER,
        "UPDATE pgqrs_workers SET heartbeat_at = now()",
        "SELECT id FROM pgqrs_workers FOR UPDATE",
    ],
}
#: What none of the three may, however it is put.
REFUSED_TO_ALL = [
    "INSERT INTO pgqrs_queues (queue_name) VALUES ('x')",
    "UPDATE pgqrs_queues SET paused = true",
    "DELETE FROM pgqrs_queues",
    "DELETE FROM pgqrs_workers",
    "UPDATE pgqrs_schema_migrations SET checksum = ''",
    "DELETE FROM _sqlx_migrations",
    "INSERT INTO pgqrs_schema_roles VALUES ('x')",
    "SELECT count(*) FROM pgqrs_workflow_runs",
    "CREATE TABLE mine ()",
    "CREATE INDEX ON pgqrs_messages (id)",
    "ALTER TABLE pgqrs_messages ADD COLUMN mine text",
    "ALTER TYPE worker_status ADD VALUE 'mine'",
    "DROP TABLE pgqrs_messages",
    "TRUNCATE pgqrs_messages",
    "CREATE TRIGGER mine BEFORE INSERT ON pgqrs_messages EXECUTE FUNCTION suppress_redundant_updates_trigger()",
]


@pytest.mark.parametrize("kind", list(REFUSED))
async def test_everything_else_is_refused(crew: Crew, kind: str) -> None:
    async with crew.login(kind) as dsn:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in REFUSED[kind] + REFUSED_TO_ALL:
                print(statement)
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.close()


async def test_the_grants_are_exactly_these(crew: Crew) -> None:
    """Who adds a column decides here, in the open, who may read and write it."""
    reading = {
        ("pgqrs_queues", "select"): "*",
        ("pgqrs_workers", "select"): "*",
        ("pgqrs_schema_migrations", "select"): "*",
        ("_sqlx_migrations", "select"): "*",
    }
    unread = "payload headers"
    columns = await crew.connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'pgqrs_messages'::regclass AND attnum > 0 ORDER BY attnum"
    )
    about_messages = " ".join(row["attname"] for row in columns if row["attname"] not in unread.split())
    working = {
        ("pgqrs_queues", "update"): "idle_until",
        ("pgqrs_workers", "insert"): (
            "name queue_id started_at heartbeat_at status cluster pod_namespace pod_name pod_uid container owner"
        ),
        ("pgqrs_workers", "update"): (
            "name queue_id started_at heartbeat_at shutdown_at status cluster pod_namespace pod_name pod_uid container "
            "terminating adopted stop_reason owner"
        ),
    }
    assert await crew.rights("observer") == reading | {("pgqrs_messages", "select"): about_messages}
    assert await crew.rights("producer") == reading | working | {
        ("pgqrs_messages", "select"): about_messages,
        ("pgqrs_messages", "insert"): (
            "id queue_id payload vt enqueued_at read_ct dequeued_at producer_worker_id consumer_worker_id headers "
            "dedup_key"
        ),
        ("pgqrs_messages", "update"): "vt consumer_worker_id",
    }
    assert await crew.rights("consumer") == reading | working | {
        ("pgqrs_messages", "select"): "*",
        ("pgqrs_messages", "update"): "vt read_ct dequeued_at consumer_worker_id archived_at dead_reason deaths",
        ("pgqrs_messages", "delete"): "*",
    }
    owned = await crew.connection.fetch(
        "SELECT pg_get_userbyid(relowner) AS owner FROM pg_class WHERE relkind IN ('r', 'S') "
        "AND relnamespace = 'public'::regnamespace"
    )
    assert {row["owner"] for row in owned} == {crew.prefix + "owner"}
    flags = await crew.connection.fetch(
        "SELECT rolcanlogin OR rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls AS strong "
        "FROM pg_roles WHERE rolname LIKE $1 || '%'",
        crew.prefix,
    )
    assert [row["strong"] for row in flags] == [False] * 4


async def test_a_later_installation_sets_the_grants_right_again(crew: Crew, admin: pgqrs.Admin) -> None:
    before = await crew.rights("observer")
    await crew.connection.execute(
        f"GRANT DELETE, SELECT ON pgqrs_messages TO {crew.prefix}observer; "
        f"REVOKE SELECT ON pgqrs_queues FROM {crew.prefix}observer"
    )
    await admin.install()
    assert await crew.rights("observer") == before


async def test_one_schema_has_roles_of_one_prefix(crew: Crew, admin: pgqrs.Admin) -> None:
    await admin.install(role_prefix=crew.prefix)
    with pytest.raises(pgqrs.ValidationError, match=crew.prefix):
        await admin.install(role_prefix="other_")


async def test_two_databases_share_roles_and_not_their_rows(crew: Crew, empty_dsn: str) -> None:
    other = await asyncpg.connect(empty_dsn)
    async with crew.login("producer") as dsn:
        address = urlsplit(dsn)._replace(path=urlsplit(empty_dsn).path).geturl()
        async with pgqrs.Admin(empty_dsn) as admin, pgqrs.Admin(address) as limited:
            await admin.install()
            with pytest.raises(pgqrs.DatabaseError, match="permission denied"):
                await limited.get_queue("emails")
            await admin.install(role_prefix=crew.prefix)
            await admin.create_queue("emails")
            await limited.get_queue("emails")
    await other.execute(
        "".join(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name};" for name in _names(crew.prefix))
    )
    await other.close()


def _names(prefix: str) -> list[str]:
    return list(roles.role_names(prefix).values())


async def test_a_plain_administrator_may_make_the_roles(empty_dsn: str) -> None:
    """No superuser is needed: the right to create roles, and a database of one's own."""
    name, password, prefix = (f"plain{secrets.token_hex(4)}{end}" for end in ("", "x", "_"))
    connection = await asyncpg.connect(empty_dsn)
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD '{password}'")
    await connection.execute(f"ALTER DATABASE {database} OWNER TO {name}")
    address = urlsplit(empty_dsn)
    dsn = address._replace(netloc=f"{name}:{password}@{address.hostname}:{address.port}").geturl()
    try:
        async with pgqrs.Admin(dsn) as admin:
            await admin.install(role_prefix=prefix)
            await admin.install(role_prefix=prefix)
            await admin.verify()
            await admin.create_queue("emails")
    finally:
        await _remove_roles(connection, prefix)
        await connection.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")
        await connection.close()


@pytest.mark.parametrize("prefix", ["", "Big_", "a-b", 'a"b', "pg_", "x" * 56, "1a"])
async def test_a_prefix_that_is_no_plain_name_is_refused_before_anything_happens(empty_dsn: str, prefix: str) -> None:
    async with pgqrs.Admin(empty_dsn) as admin:
        with pytest.raises(pgqrs.ValidationError, match="prefix of roles"):
            await admin.install(role_prefix=prefix)
        with pytest.raises(pgqrs.SchemaError, match="no pgqrs tables"):
            await admin.verify()


async def test_a_role_that_can_log_in_is_not_taken_for_a_group(empty_dsn: str) -> None:
    prefix = f"taken{secrets.token_hex(4)}_"
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(f"CREATE ROLE {prefix}consumer LOGIN")
    async with pgqrs.Admin(empty_dsn) as admin:
        with pytest.raises(pgqrs.ValidationError, match=f"{prefix}consumer can log in"):
            await admin.install(role_prefix=prefix)
    left = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE $1 || '%'", prefix)
    assert [row["rolname"] for row in left] == [f"{prefix}consumer"], "nothing half-made"
    await connection.execute(f"DROP ROLE {prefix}consumer")
    await connection.close()
