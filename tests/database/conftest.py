"""What tests of the tables share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Look at the tables, and change them, past the library."""
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()
