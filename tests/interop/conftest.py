"""Fixtures with upstream's real client beside ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

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
