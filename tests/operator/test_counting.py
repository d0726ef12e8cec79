"""Counting many queues: in slices, within a part of a round, and no more of anything than is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgqrs import errors, fleet, queues
from pgqrs_operator import counting
from pgqrs_operator.counting import Counts

if TYPE_CHECKING:
    from collections.abc import Collection

    import pgqrs
    from pgqrs.database import Database

NAMES = [f"q{number}" for number in range(5)]


@pytest.fixture
async def counts(admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Counts of five queues, two of which go into one statement."""
    monkeypatch.setattr(counting, "_SLICE", 2)
    for name in NAMES:
        await queues.create(admin.database, name)
    return Counts(admin.database)


def _sizes(asked: list[set[str]]) -> list[int]:
    """Give how many queues each statement counted since the last time."""
    sizes = [len(one) for one in asked]
    asked.clear()
    return sizes


async def test_many_are_counted_in_slices(counts: Counts, asked: list[set[str]]) -> None:
    assert await counts.refresh(NAMES)
    assert set().union(*asked) == set(NAMES)
    assert _sizes(asked) == [2, 2, 1]
    assert all(counts.of(name) == fleet.FleetCounts() for name in NAMES)


async def test_a_count_of_all_takes_a_part_of_a_round_and_goes_on_in_the_next(
    counts: Counts, asked: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_COUNTING_SECONDS", 0.0)
    # What has nothing to show yet is counted whatever time it takes: else its status would be written twice.
    assert await counts.refresh(NAMES)
    assert _sizes(asked) == [2, 2, 1]

    count = fleet.counts

    async def slowly(db: Database, names: Collection[str]) -> dict[str, fleet.FleetCounts]:
        found = await count(db, names)
        monkeypatch.setattr(counting, "_COUNTING_SECONDS", 0.0)
        return found

    async def one_round() -> bool:
        monkeypatch.setattr(counting, "_COUNTING_SECONDS", 60.0)
        return await counts.refresh(NAMES)

    monkeypatch.setattr("pgqrs.fleet.counts", slowly)
    monkeypatch.setattr(counting, "_INTERVAL_SECONDS", 0.0)
    assert [await one_round() for _ in range(3)] == [False, False, True]
    assert set().union(*asked) == set(NAMES)
    assert _sizes(asked) == [2, 2, 1]


async def test_a_count_that_fails_is_given_up_until_the_next_and_what_was_shown_stays(
    counts: Counts, asked: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await counts.refresh(NAMES)
    count = fleet.counts

    async def failing(db: Database, names: Collection[str]) -> dict[str, fleet.FleetCounts]:
        await count(db, names)
        message = "no answer in time"
        raise errors.DatabaseUnavailableError(message)

    monkeypatch.setattr("pgqrs.fleet.counts", failing)
    monkeypatch.setattr(counting, "_INTERVAL_SECONDS", 0.0)
    asked.clear()
    # What else depends on numbers is told all the same.
    assert await counts.refresh(NAMES)
    assert _sizes(asked) == [2]
    monkeypatch.setattr(counting, "_INTERVAL_SECONDS", 60.0)
    assert not await counts.refresh(NAMES)
    assert not asked
    assert all(counts.of(name) == fleet.FleetCounts() for name in NAMES)


async def test_stopped_workers_are_counted_up_to_a_limit(admin: pgqrs.Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "MAX_COUNT", 3)
    statuses = {"many": ["stopped"] * 4 + ["ready", "polling", "suspended", "interrupted"], "few": ["stopped"] * 2}
    for name, workers in {**statuses, "none": []}.items():
        info = await queues.create(admin.database, name)
        async with admin.database.transaction() as transaction:
            for number, status in enumerate(workers):
                await transaction.execute(
                    "INSERT INTO pgqrs_workers (name, queue_id, status) "
                    f"VALUES ('{name}:{number}', {info.id}, '{status}')"
                )
    found = await fleet.counts(admin.database, ["many", "few", "none"])
    shown = {name: (one.ready, one.suspended, one.stopped) for name, one in found.items()}
    assert shown == {"many": (2, 2, 3), "few": (0, 0, 2), "none": (0, 0, 0)}
