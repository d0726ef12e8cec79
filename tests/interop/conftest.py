"""Fixtures with upstream's real client beside ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs
from tests.support import upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.upstream import UpstreamClient


@pytest.fixture(scope="session", autouse=True)
def _wheel() -> None:
    """Install upstream's wheel before any test's clock runs; where it cannot be, every test here says so."""
    upstream.python()


@pytest.fixture
async def theirs(dsn: str) -> AsyncIterator[UpstreamClient]:
    """Upstream's client on the database that ours installed."""
    async with upstream.client(dsn) as running:
        yield running


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to that database, for looking at rows."""
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def queue(admin: pgqrs.Admin, theirs: UpstreamClient) -> str:
    """One queue, with a producer `sender` and a consumer `receiver` of upstream's."""
    await admin.create_queue("emails")
    await theirs.call("producer", queue="emails", name="sender")
    await theirs.call("consumer", queue="emails", name="receiver")
    return "emails"


@pytest.fixture
async def ours(admin: pgqrs.Admin, queue: str) -> AsyncIterator[pgqrs.Consumer]:
    """A consumer of ours on that queue."""
    async with pgqrs.Consumer(admin, queue) as opened:
        yield opened


@pytest.fixture
async def sender(admin: pgqrs.Admin, queue: str) -> AsyncIterator[pgqrs.Producer]:
    """A producer of ours on that queue."""
    async with pgqrs.Producer(admin, queue) as opened:
        yield opened
