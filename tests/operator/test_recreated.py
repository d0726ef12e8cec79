"""A queue's row that somebody deleted comes back as the one that it was, so that its messages are found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pgqrs
from pgqrs import fleet, lifecycle, queues
from pgqrs.fleet import QueueDeclaration
from pgqrs.models import QueuePolicy, QueueRetention
from tests.operator.world import World, dequeued, queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqrs.database import Database
    from tests.operator.conftest import Cluster

#: What the API server takes for a row's id, and no row can have.
NO_IDS = ("7", 0, -1, 2**63, 10**9, 1.5, True, None, [1])


async def delete_row(db: Database, name: str) -> None:
    """Delete a queue's row as somebody does by hand who means well: with its workers, which refer to it."""
    async with db.transaction() as transaction:
        await transaction.execute(
            f"DELETE FROM pgqrs_workers WHERE queue_id = (SELECT id FROM pgqrs_queues WHERE queue_name = '{name}');"
            f"DELETE FROM pgqrs_queues WHERE queue_name = '{name}'"
        )


async def send(db: Database, name: str, payload: dict[str, Any]) -> None:
    async with pgqrs.Admin(db.dsn) as admin, pgqrs.Producer(admin, name) as producer:
        await producer.enqueue(payload)


async def test_messages_are_delivered_after_the_row_was_deleted(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails", spec={"maxReads": 7, "retention": {"deadLetters": "1h"}})
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        before = await queues.get(admin.database, "emails")
        await send(admin.database, "emails", {"to": "a"})
        await delete_row(admin.database, "emails")
        await cluster.eventually(lambda: "Recreated" in server.reasons())
    (event,) = [one for one in server.events if one["reason"] == "Recreated"]
    assert f"former id {before.id}" in event["message"]
    after = await queues.get(admin.database, "emails")
    assert (after.id, after.owner, after.policy, after.retention) == (
        before.id, before.owner, before.policy, before.retention,
    )  # fmt: skip
    worker = await lifecycle.register(admin.database, "emails", hostname="h")
    assert len(await dequeued(World(admin.database), worker.id)) == 1
    # The next queue has an id of its own.
    assert (await queues.create(admin.database, "other")).id > before.id


async def test_what_the_status_says_is_kept_while_the_row_cannot_be_made(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin
) -> None:
    server = cluster.server
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        before = await queues.get(admin.database, "emails")
        async with admin.database.transaction() as transaction:
            await transaction.execute(
                "DELETE FROM pgqrs_queues;"
                "ALTER TABLE pgqrs_queues ADD CONSTRAINT nothing CHECK (queue_name <> 'emails')"
            )
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "DatabaseRefused")
    async with admin.database.transaction() as transaction:
        await transaction.execute("ALTER TABLE pgqrs_queues DROP CONSTRAINT nothing")
    # Nothing is remembered but what the status says.
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
    assert (await queues.get(admin.database, "emails")).id == before.id


@pytest.mark.parametrize("row_id", NO_IDS)
async def test_what_is_no_id_of_a_row_does_no_harm(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, row_id: object
) -> None:
    server = cluster.server
    server.put_secret(dsn)
    taken = await queues.create(admin.database, "taken")
    server.put("PgqrsQueue", "emails", status={"queueId": row_id})
    server.put("PgqrsQueue", "letters", status={"queueId": row_id})
    async with cluster.operator():
        for name in ("emails", "letters"):
            await cluster.eventually(lambda name=name: server.reason("PgqrsQueue", name) == "InSync")  # type: ignore[misc]
    found = {info.queue_name: info.id for info in await queues.listing(admin.database)}
    assert found["taken"] == taken.id
    assert min(found["emails"], found["letters"]) > taken.id
    assert row_id not in (found["emails"], found["letters"])
    # The sequence is where it was: what is made next gets an id that is free.
    assert (await queues.create(admin.database, "next")).id not in found.values()


async def _taken_by_another(db: Database, row_id: int) -> None:
    assert (await queues.get(db, "other")).id == row_id


async def _free(db: Database, row_id: int) -> None:
    assert (await queues.get(db, "other")).id == row_id
    await delete_row(db, "other")


@pytest.mark.parametrize(("before", "kept"), [(_taken_by_another, False), (_free, True)])
async def test_an_id_is_taken_only_where_no_row_has_it(
    admin: pgqrs.Admin, before: Callable[..., Any], *, kept: bool
) -> None:
    db = admin.database
    other = await queues.create(db, "other")
    await before(db, other.id)
    declaration = QueueDeclaration(name="a", policy=QueuePolicy(), owner="shop/a", former_id=other.id)
    written = await fleet.declare(db, [declaration])
    assert (written["a"] == other.id) is kept
    assert written == {"a": (await queues.get(db, "a")).id}


async def test_two_that_name_one_id_get_one_each(admin: pgqrs.Admin) -> None:
    """The first by its name gets it, with the whole of what is declared; what is there already stays as it is."""
    db = admin.database
    last = await queues.create(db, "last")
    await delete_row(db, "last")
    there = await queues.create(db, "there")
    kept = QueueRetention()
    made = [
        QueueDeclaration(
            name=name, policy=QueuePolicy(read_limit=9), owner="o", retention=kept, former_id=last.id
        )
        for name in ("c", "b", "there")
    ]  # fmt: skip
    written = await fleet.declare(db, made)
    assert written["b"] == last.id
    assert written["there"] == there.id
    assert len(set(written.values())) == 3
    for info in await queues.listing(db):
        assert (info.policy, info.owner, info.id) == (QueuePolicy(read_limit=9), "o", written[info.queue_name])


async def test_a_table_whose_sequence_nobody_knows_takes_no_id(world: World) -> None:
    """Such as one that was restored without it: what is declared comes true all the same."""
    await world.converge()
    row = await world.row()
    async with world.db.transaction() as transaction:
        await transaction.execute("ALTER SEQUENCE pgqrs_queues_id_seq OWNED BY NONE")
    await delete_row(world.db, "emails")
    world.queues = (queue(former_id=row.id),)
    await world.converge()
    assert (await world.row()).id > row.id


async def test_who_adopts_nothing_gets_its_own_row_back_and_no_other(world: World) -> None:
    world.queues = (queue(adopts=False),)
    await world.converge()
    row = await world.row()
    await delete_row(world.db, "emails")
    world.queues = (queue(adopts=False, former_id=row.id),)
    planned = await world.plan()
    (action,) = planned.actions
    # Somebody else makes a row of the name at this moment.
    made = await queues.create(world.db, "emails")
    assert await fleet.declare(world.db, [action.declaration]) == {}  # type: ignore[union-attr]
    assert (await world.row()) == made
    await delete_row(world.db, "emails")
    await world.converge()
    assert ((await world.row()).id, (await world.row()).owner) == (row.id, "shop/emails")
