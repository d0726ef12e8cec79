"""kopf's watches beside the operator's own lists: where one of the two is deaf, the other one is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgqrs import queues
from tests.operator.test_operation import Site
from tests.operator.watched_server import WATCHED, WatchedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pgqrs
    from tests.operator.test_operation import Operator

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def server(dsn: str) -> AsyncIterator[WatchedServer]:
    made = WatchedServer()
    await made.start()
    made.put_secret(dsn)
    yield made
    await made.aclose()


@pytest.fixture
def site(server: WatchedServer, tmp_path: Path) -> Site:
    return Site(server, tmp_path)


async def _watching(site: Site, server: WatchedServer, operator: Operator) -> None:
    """Wait until an operator leads and watches, and has made a queue."""
    await site.leads(operator)
    await site.eventually(lambda: server.begun.keys() >= WATCHED, operator)
    await site.declared("emails", operator)


async def _paused(site: Site, server: WatchedServer, operator: Operator, admin: pgqrs.Admin) -> None:
    """Declare the queue as paused, and wait until that is said to have come true; look whether it has."""
    server.change("PgqrsQueue", "emails", spec={"paused": True}, metadata={"generation": 2})
    await site.eventually(lambda: _observed(server) == 2, operator)
    assert (await queues.get(admin.database, "emails")).policy.paused


def _observed(server: WatchedServer) -> int:
    found = server.get("PgqrsQueue", "emails") or {}
    generation: int = found["status"]["observedGeneration"]
    return generation


async def test_a_change_that_no_watch_shows_is_found_by_the_next_list(
    site: Site, server: WatchedServer, admin: pgqrs.Admin
) -> None:
    async with site.operator("a", "watches") as a:
        await _watching(site, server, a)
        server.silent = True
        begun, listed = server.begun.copy(), server.lists["a"]
        await _paused(site, server, a, admin)
        # Nobody noticed: the same watches are open, as silent as before.
        assert server.begun == begun
        assert server.lists["a"] > listed
        # Of what is deleted a watch would have told, too.
        server.delete("PgqrsQueue", "emails")
        await site.eventually(lambda: server.get("PgqrsQueue", "emails") is None, a)
        assert server.begun == begun


async def test_a_change_is_seen_on_a_watch_while_nothing_can_be_listed(
    site: Site, server: WatchedServer, admin: pgqrs.Admin
) -> None:
    async with site.operator("a", "watches") as a:
        await _watching(site, server, a)
        server.lists_refused = True
        await site.eventually(lambda: server.refused, a)
        listed = server.lists["a"]
        await _paused(site, server, a, admin)
        assert server.lists["a"] == listed
        assert "cluster not listed" in a.log
        server.delete("PgqrsQueue", "emails")
        await site.eventually(lambda: server.get("PgqrsQueue", "emails") is None, a)
        assert server.lists["a"] == listed
