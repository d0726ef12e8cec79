"""Fixtures that every folder of tests shares: a PostgreSQL server, and a fresh database of it for each test."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import asyncpg
import pytest

import pgqrs
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_numbers = itertools.count(1)
_TEMPLATE = "template_pgqrs"

# What the environment of the developer says must not decide what a test sees.
for _name in [name for name in os.environ if name.startswith("PGQRS_") and not name.startswith("PGQRS_TEST_")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server of this test session's own."""
    server = PostgresServer()
    server.create()
    yield server
    server.destroy()


@pytest.fixture
async def empty_dsn(postgres: PostgresServer) -> AsyncIterator[str]:
    """A database without any table."""
    name = f"empty_{next(_numbers)}"
    connection = await asyncpg.connect(postgres.dsn())
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    yield postgres.dsn(name)
    await _drop(postgres, name)


@pytest.fixture
async def dsn(postgres: PostgresServer) -> AsyncIterator[str]:
    """A database with our schema, copied from a template that is installed once."""
    name = f"test_{next(_numbers)}"
    connection = await asyncpg.connect(postgres.dsn())
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", _TEMPLATE):
            await connection.execute(f"CREATE DATABASE {_TEMPLATE}")
            async with pgqrs.Admin(postgres.dsn(_TEMPLATE)) as admin:
                await admin.install()
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    finally:
        await connection.close()
    yield postgres.dsn(name)
    await _drop(postgres, name)


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Look at the tables, and change them, past the library."""
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[pgqrs.Admin]:
    """The fresh database, opened."""
    async with pgqrs.Admin(dsn) as opened:
        yield opened


@pytest.fixture
def bouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """A PgBouncer in front of the server."""
    made = PgBouncer(postgres)
    made.start()
    yield made
    made.stop()


async def _drop(postgres: PostgresServer, name: str) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()
