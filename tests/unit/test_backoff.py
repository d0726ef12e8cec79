"""Delays between attempts: they grow, never beyond the longest, and chance only shortens them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import pgqrs
from pgqrs.backoff import Backoff
from pgqrs.errors import DeadLetter, Retry


def test_delays_grow_by_the_factor_up_to_the_longest() -> None:
    backoff = Backoff(first=timedelta(seconds=2), factor=3, most=timedelta(seconds=50), jitter=0)
    assert [backoff.seconds(attempt) for attempt in (1, 2, 3, 4, 5)] == [2, 6, 18, 50, 50]
    assert backoff.seconds(100_000) == 50


def test_the_last_of_many_attempts_is_no_sum_without_end() -> None:
    assert Backoff(factor=1_000_000, jitter=0).seconds(2**31) == 3600
    assert Backoff(first=timedelta(), factor=1_000_000, jitter=0).seconds(2**31) == 0


def test_chance_takes_away_no_more_than_its_share() -> None:
    backoff = Backoff(first=timedelta(seconds=10), factor=1, jitter=0.25)
    delays = [backoff.seconds(1) for _ in range(2000)]
    assert 7.5 <= min(delays) < 8
    assert 9.5 < max(delays) <= 10


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"first": timedelta(seconds=-1)}, "first"),
        ({"first": 5}, "first"),
        ({"most": timedelta.max}, "longest"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"factor": float("inf")}, "factor"),
        ({"factor": "2"}, "factor"),
        ({"jitter": 1.5}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"jitter": None}, "jitter"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(pgqrs.ValidationError, match=said):
        Backoff(**wrong)


def test_a_handler_s_verdicts_say_why_and_refuse_what_makes_no_sense() -> None:
    assert Retry(after=timedelta()).after == timedelta()
    assert str(Retry("busy")) == "busy"
    assert str(Retry())
    assert DeadLetter("nobody").reason == "nobody"
    assert DeadLetter("").reason.strip()
    for wrong in (timedelta(-1), 5):
        with pytest.raises(pgqrs.ValidationError, match="after"):
            Retry(after=wrong)  # type: ignore[arg-type]
