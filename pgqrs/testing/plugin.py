"""The pytest plugin: fixtures of a private PostgreSQL; pytest finds it by itself where pgqrs is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgqrs.testing.server import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqrs.testing.server import Server


@pytest.fixture(scope="session")
def pgqrs_server() -> Iterator[Server]:
    """A PostgreSQL server of this test session's own."""
    with postgres() as server:
        yield server


@pytest.fixture
def pgqrs_dsn(pgqrs_server: Server) -> Iterator[str]:
    """The DSN of a fresh database with the tables of pgqrs, of this test's own."""
    with pgqrs_server.database() as dsn:
        yield dsn
