"""Upstream's clients decide times by their own clocks; ours tell the server no moment, so their clocks don't matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from pgqrs import statements

if TYPE_CHECKING:
    import pytest

#: Not statements that can be prepared: parts of statements, and several at once for the installer.
_NO_STATEMENTS = {"fragments", "roles"}
#: Here a person names a moment to choose by; nothing is written or leased because of it.
_ASKED_FOR = {"dead_letters.list", "dead_letters.replay_matching"}
#: Here the server's own moment comes back to it: where in the queue a scan begins (`fragments.leasing`).
_GIVEN_BACK = {"messages.dequeue", "messages.archive_and_dequeue", "messages.delete_and_dequeue"}
_TIMES = {"timestamptz", "timestamp", "date", "time", "timetz"}


async def _parameters(connection: asyncpg.Connection, name: str) -> list[str]:
    prepared = await connection.prepare(statements.statement(name, "public"))
    return [parameter.name for parameter in prepared.get_parameters()]


async def test_no_statement_takes_a_moment_from_the_client(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        taking = {
            name
            for name in statements.names()
            if name.partition(".")[0] not in _NO_STATEMENTS and _TIMES.intersection(await _parameters(connection, name))
        }
        assert taking == _ASKED_FOR | _GIVEN_BACK
    finally:
        await connection.close()


async def test_a_statement_that_took_one_would_be_found(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await asyncpg.connect(dsn)
    monkeypatch.setattr(statements, "statement", lambda *_: "UPDATE pgqrs_workers SET heartbeat_at = $1 WHERE id = $2")
    try:
        assert _TIMES.intersection(await _parameters(connection, "any")) == {"timestamptz"}
    finally:
        await connection.close()
