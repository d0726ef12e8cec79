"""How much is leased ahead of handlers, and where a scan of the queue begins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgqrs.fetching import MAX_FETCH, Cursor, Prefetch

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _after(rate: float, *, took: float, rounds: int = 10) -> Prefetch:
    """What is learned from handlers that begin so many messages a second, and round trips of this length."""
    prefetch, now = Prefetch(), 0.0
    for _ in range(rounds):
        prefetch.learn(now, now + took)
        now += took + 0.1
        prefetch.begun += round(rate * (took + 0.1))
    prefetch.learn(now, now + took)
    return prefetch


def test_nothing_is_leased_ahead_before_anything_is_known() -> None:
    assert Prefetch().ahead == 0


def test_nothing_is_leased_ahead_of_slow_handlers() -> None:
    assert _after(10, took=0.002).ahead == 0


def test_a_while_of_work_is_leased_ahead_of_fast_ones() -> None:
    assert 15 <= _after(1_000, took=0.002).ahead <= 25


def test_two_round_trips_are_leased_ahead_where_these_take_long() -> None:
    assert 150 <= _after(1_000, took=0.1).ahead <= 250


def test_there_is_a_limit() -> None:
    assert _after(1_000_000, took=0.1).ahead == MAX_FETCH


def test_handlers_that_became_slow_are_believed_after_a_while() -> None:
    prefetch = _after(10_000, took=0.002)
    fast, now = prefetch.ahead, 100.0
    for _ in range(20):
        now += 1.0
        prefetch.begun += 1
        prefetch.learn(now, now + 0.002)
    assert fast > 100
    assert prefetch.ahead == 0


def test_a_flood_is_met_at_once() -> None:
    prefetch = Prefetch()
    prefetch.learn(0.0, 0.002)
    prefetch.begun += 10
    prefetch.learn(0.003, 0.005)
    assert prefetch.ahead >= 50


def test_scans_begin_at_the_head_as_long_as_that_is_cheap() -> None:
    cursor = Cursor()
    assert cursor.begin(0.0) is None
    cursor.learn(whole=True, full=False, ended=1.0, took=0.001, count=10, seen=NOON)
    assert cursor.begin(1.0) is None


def test_a_slow_scan_of_many_messages_is_no_sign() -> None:
    cursor = Cursor()
    cursor.learn(whole=True, full=False, ended=1.0, took=0.05, count=500, seen=NOON)
    assert cursor.begin(1.0) is None


def test_a_slow_scan_of_few_makes_the_next_ones_begin_a_little_before_its_end() -> None:
    cursor = Cursor()
    cursor.learn(whole=True, full=False, ended=1.0, took=0.02, count=3, seen=NOON)
    assert cursor.begin(1.0) == NOON - timedelta(seconds=1)


@pytest.mark.parametrize("took", [0.02, 0.5, 30.0])
def test_the_head_is_looked_at_again_in_five_seconds_at_most(took: float) -> None:
    cursor = Cursor()
    cursor.learn(whole=True, full=False, ended=1.0, took=took, count=3, seen=NOON)
    assert cursor.begin(6.0) is None


def test_messages_that_came_to_the_head_do_not_take_the_cursor_back() -> None:
    cursor = Cursor()
    cursor.learn(whole=True, full=False, ended=1.0, took=0.02, count=3, seen=NOON)
    cursor.learn(whole=False, full=False, ended=1.1, took=0.001, count=1, seen=NOON - timedelta(hours=1))
    cursor.learn(whole=False, full=False, ended=1.2, took=0.001, count=0, seen=None)
    assert cursor.begin(1.2) == NOON - timedelta(seconds=1)


def test_a_head_with_more_than_one_scan_gives_is_gone_through() -> None:
    cursor = Cursor()
    cursor.learn(whole=True, full=False, ended=1.0, took=0.02, count=3, seen=NOON)
    earlier = NOON - timedelta(hours=1)
    cursor.learn(whole=True, full=True, ended=9.0, took=0.02, count=10, seen=earlier)
    assert cursor.begin(9.0) == earlier - timedelta(seconds=1)
