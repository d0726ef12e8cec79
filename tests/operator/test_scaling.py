"""What autoscalers are told of a queue: right, recent, from the leader, and never at the price of a statement each."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from pgqrs import lifecycle
from pgqrs.fleet import FleetCounts
from pgqrs_operator import backlogs, counting, scaling
from pgqrs_operator.backlogs import Backlog, Backlogs
from pgqrs_operator.counting import Counts
from pgqrs_operator.facts import Key
from pgqrs_operator.scaling import Scaling
from tests.operator.world import World, dequeued

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pgqrs
    from tests.operator.conftest import Cluster


@dataclass
class Replica:
    """One of several operators, as far as autoscalers see it."""

    backlogs: Backlogs = field(default_factory=Backlogs)
    leads: bool = True
    leader_address: str | None = None
    #: Where it listens, and where it takes the others to listen.
    port: int = 0
    others: int = 0

    @asynccontextmanager
    async def served(self, host: str = "127.0.0.1") -> AsyncIterator[Replica]:
        app = web.Application()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

        async def answer(request: web.Request) -> web.Response:
            return await Scaling(self.backlogs, self, self.others or self.port).answer(request)

        app.router.add_get(scaling.PATH, answer)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, self.port).start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    async def ask(self, path: str = "shop/emails", *, follow: bool = True) -> tuple[int, dict[str, Any]]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/scale/{path}", allow_redirects=follow) as response,
        ):
            if response.status == 307:
                return 307, {"to": response.headers["Location"]}
            assert response.content_type == "application/json"
            return response.status, await response.json()


async def _sent(world: World, count: int) -> None:
    async with world.db.transaction() as transaction:
        await transaction.execute(
            "INSERT INTO pgqrs_messages (queue_id, payload, vt, enqueued_at) "
            "SELECT id, '{}', now() - interval '1 minute', now() - interval '1 minute' "
            f"FROM pgqrs_queues, generate_series(1, {count}) WHERE queue_name = 'emails'"
        )


async def test_a_queue_is_told_as_it_is_and_again_soon_once_somebody_asks(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_URGENT_SECONDS", 0.2)
    server, world = cluster.server, World(admin.database)
    server.put_secret(dsn)
    server.put("PgqrsQueue", "emails")
    async with cluster.operator(), Replica(cluster.metrics.backlogs).served() as replica:
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        status, told = await replica.ask()
        assert (status, told["depth"], told["inFlight"], told["oldestReadySeconds"]) == (200, 0, 0, 0)
        await _sent(world, 3)
        row = await lifecycle.register(admin.database, "emails", hostname="h")
        assert await dequeued(world, row.id)
        async with asyncio.timeout(20):
            while (await replica.ask())[1]["depth"] != 2:
                cluster.store.changed.set()
                await asyncio.sleep(0.05)
        _, told = await replica.ask()
        assert (told["inFlight"], told["total"], told["delayed"]) == (1, 3, 0)
        assert 60 <= told["oldestReadySeconds"] < 120
        assert 0 <= told["ageSeconds"] < 20

        server.delete("PgqrsQueue", "emails")
        await cluster.eventually(lambda: server.get("PgqrsQueue", "emails") is None)
        await cluster.eventually(lambda: not list(cluster.metrics.backlogs))
        status, told = await replica.ask()
        assert (status, "shop/emails" in told["error"]) == (404, True)
        assert b'queue="emails"' not in cluster.metrics.text()


async def test_questions_cost_no_statements(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, asked: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two queues in one database both are counted by one statement; who asks a hundred times has no more counted."""
    monkeypatch.setattr(counting, "_URGENT_SECONDS", 1.0)
    assert admin.database.dsn == dsn
    server = cluster.server
    server.put_secret(dsn)
    for name in ("emails", "letters", "others"):
        server.put("PgqrsQueue", name)
    async with cluster.operator(), Replica(cluster.metrics.backlogs).served() as replica:
        await cluster.eventually(lambda: len(list(cluster.metrics.backlogs)) == 3)
        asked.clear()
        for _ in range(50):
            for name in ("emails", "letters"):
                assert (await replica.ask(f"shop/{name}"))[0] == 200
        assert len(asked) <= 3
        await cluster.eventually(lambda: {"emails", "letters"} in asked)


async def test_the_numbers_of_a_queue_in_conflict_are_somebody_elses(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin
) -> None:
    assert admin.database.dsn == dsn
    server = cluster.server
    for namespace in ("shop", "evil"):
        server.put_secret(dsn, namespace=namespace)
    server.put("PgqrsQueue", "emails")
    late = {"creationTimestamp": "2026-02-02T00:00:00Z"}
    server.put("PgqrsQueue", "mine", namespace="evil", spec={"queueName": "emails"}, metadata=late)
    async with cluster.operator(), Replica(cluster.metrics.backlogs).served() as replica:
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "emails") == "InSync")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "mine", namespace="evil") == "Conflict")
        assert (await replica.ask("shop/emails"))[0] == 200
        assert (await replica.ask("evil/mine"))[0] == 503
        assert b'namespace="evil"' not in cluster.metrics.text()


async def test_without_recent_numbers_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key("shop", "emails")
    async with Replica().served() as replica:
        # Before anything was listed nobody knows which queues there are.
        assert (await replica.ask())[0] == 503
        replica.backlogs.keep([key])
        status, told = await replica.ask()
        assert (status, "not counted" in told["error"]) == (503, True)
        replica.backlogs.put(key, Backlog(FleetCounts(), asyncio.get_running_loop().time()))
        assert (await replica.ask())[0] == 200
        monkeypatch.setattr(backlogs, "STALE_SECONDS", 0.0)
        assert (await replica.ask())[0] == 503


@pytest.mark.parametrize("path", ["shop/other", "other/emails", "shop/..%2Femails", "shop/%0Aemails", "SHOP/emails"])
async def test_a_queue_that_is_not_there_is_not_found(path: str) -> None:
    async with Replica().served() as replica:
        replica.backlogs.keep([Key("shop", "emails")])
        status, told = await replica.ask(path)
        assert status == 404
        assert "/scale/NAMESPACE/NAME" in told["error"]


async def test_a_follower_sends_who_asks_to_the_leader() -> None:
    key = Key("shop", "emails")
    # Both listen on one port, as the pods of a Deployment do, at different addresses.
    async with Replica().served("127.0.0.2") as leader:
        leader.backlogs.keep([key])
        leader.backlogs.put(key, Backlog(FleetCounts(), asyncio.get_running_loop().time()))
        follower = Replica(leads=False, leader_address="127.0.0.2", port=leader.port)
        async with follower.served():
            status, told = await follower.ask()
            assert (status, told["depth"]) == (200, 0)
            status, told = await follower.ask(follow=False)
            assert told == {"to": f"http://127.0.0.2:{leader.port}/scale/shop/emails?sentOn=true"}
            # It lost the Lease meanwhile: nobody is sent to and fro.
            leader.leads, leader.leader_address = False, "127.0.0.1"
            assert (await follower.ask())[0] == 503


@pytest.mark.parametrize("address", [None, "", "example.org", "1.2.3.4:5/x#", "1.2.3.4\r\nX: y"])
async def test_a_follower_that_knows_no_leader_says_so(address: str | None) -> None:
    async with Replica(leads=False, leader_address=address).served() as replica:
        status, told = await replica.ask(follow=False)
        assert (status, "does not lead" in told["error"]) == (503, True)


async def test_the_address_of_a_leader_may_be_ipv6() -> None:
    async with Replica(leads=False, leader_address="fd00::7", others=8080).served() as replica:
        assert (await replica.ask(follow=False))[1] == {"to": "http://[fd00::7]:8080/scale/shop/emails?sentOn=true"}


async def test_only_who_is_asked_for_is_counted_more_often(
    admin: pgqrs.Admin, asked: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        await admin.create_queue(name)
    counts = Counts(admin.database)
    assert await counts.refresh(["a", "b"], urgent=["a"])
    await counts.refresh(["a", "b"], urgent=["a"])
    assert asked == [{"a", "b"}]
    monkeypatch.setattr(counting, "_URGENT_SECONDS", 0.0)
    assert not await counts.refresh(["a", "b"], urgent=["a"])
    assert asked == [{"a", "b"}, {"a"}]
    first, second = counts.backlog("a"), counts.backlog("b")
    assert first is not None
    assert second is not None
    assert first.counted_at > second.counted_at


async def test_interest_in_a_queue_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key("shop", "emails")
    book = Backlogs()
    book.keep([key])
    assert not book.is_urgent(key)
    book.ask(key)
    assert book.is_urgent(key)
    book.keep([])
    assert not book.is_urgent(key)
    book.keep([key])
    book.ask(key)
    monkeypatch.setattr(backlogs, "_INTEREST_SECONDS", -1.0)
    assert not book.is_urgent(key)
