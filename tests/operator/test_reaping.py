"""What PostgreSQL refuses to remove of one queue is removed of the others all the same."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from pgqrs import errors, queues
from pgqrs.models import QueueRetention
from pgqrs_operator.halves import by_halves
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pytest

    from pgqrs.database import Database
    from tests.operator.world import World

NAMES = [f"q{number}" for number in range(8)]


async def _archived(world: World) -> None:
    """Make queues that keep nothing, with an archived message each."""
    for name in NAMES:
        await queues.create(world.db, name, retention=QueueRetention(archived=timedelta()))
    async with world.db.transaction() as transaction:
        await transaction.execute(
            "INSERT INTO pgqrs_messages (queue_id, payload, archived_at) "
            "SELECT id, '{}', now() - interval '1 day' FROM pgqrs_queues"
        )


async def test_what_is_refused_of_one_queue_holds_up_no_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Such as by a table of somebody else that refers to its messages."""
    await _archived(world)
    async with world.db.transaction() as transaction:
        await transaction.execute(
            "CREATE TABLE reports (message_id bigint REFERENCES pgqrs_messages);"
            "INSERT INTO reports SELECT m.id FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id "
            "WHERE q.queue_name = 'q5'"
        )
    reaper = Reaper(world.db, Metrics())
    reaper.serve(NAMES)
    with caplog.at_level(logging.WARNING):
        assert (await reaper.once())["archived_messages"] == len(NAMES) - 1
    left = await queues.all_counts(world.db)
    assert [name for name, counts in sorted(left.items()) if counts.archived] == ["q5"]
    (record,) = caplog.records
    assert (record.__dict__["kind"], record.__dict__["queue"], record.__dict__["queues"]) == (
        "archived_messages", "q5", 1,
    )  # fmt: skip
    assert "reports" in record.__dict__["error"]


async def test_a_database_that_does_not_answer_is_not_asked_for_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _archived(world)
    asked: list[int] = []

    async def failing(_: Database, names: Collection[str]) -> int:
        asked.append(len(names))
        message = "no answer in time"
        raise errors.DatabaseUnavailableError(message)

    monkeypatch.setattr("pgqrs_operator.reaper._KINDS", {"archived_messages": failing, "dead_letters": failing})
    reaper = Reaper(world.db, Metrics())
    reaper.serve(NAMES)
    assert await reaper.once() == {"archived_messages": 0, "dead_letters": 0}
    assert asked == [8, 8]


async def test_where_all_is_refused_it_is_not_tried_for_each() -> None:
    tried: list[int] = []
    refused: list[int] = []

    async def do(part: Sequence[int]) -> None:
        tried.append(len(part))
        message = "refused"
        raise errors.DatabaseError(message)

    def note(part: Sequence[int], text: str) -> None:
        assert text == "refused"
        refused.extend(part)

    await by_halves(do, range(1000), batch=500, refused=note)
    assert sorted(refused) == list(range(1000))
    assert tried.count(1) == 20
    assert len(tried) < 100
