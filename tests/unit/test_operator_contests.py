"""Whose row is changed again and again: said after the third time, and taken back when it ends."""

from __future__ import annotations

import asyncio

import pytest

from pgqrs_operator import verdicts
from pgqrs_operator.contests import Contests
from pgqrs_operator.facts import Key

EMAILS, LETTERS = Key("shop", "emails"), Key("shop", "letters")
IN_SYNC = verdicts.ready("InSync", "Queue 'emails' is as declared.")


class Clock:
    """An event loop's clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


@pytest.mark.parametrize("cause", ["DriftRepaired", "Recreated", "Adopted"])
def test_the_third_repair_within_five_minutes_is_no_slip_of_a_hand(clock: Clock, cause: str) -> None:
    contests = Contests()
    for _ in range(2):
        contests.note([(EMAILS, cause)])
        clock.now += 149
        assert contests.judged(EMAILS, IN_SYNC) == IN_SYNC
    contests.note([(EMAILS, cause)])
    told = contests.judged(EMAILS, IN_SYNC)
    assert (told.kind, told.reason, told.warns) == ("ready", "Contested", True)
    assert told.message.startswith(IN_SYNC.message)
    assert "clusterName" in told.message
    # It goes on, and is told in the same words: a status is not written for each time.
    clock.now += 10
    contests.note([(EMAILS, cause)])
    assert contests.judged(EMAILS, IN_SYNC) == told
    assert contests.judged(LETTERS, IN_SYNC) == IN_SYNC
    clock.now += 140
    assert contests.holds(EMAILS)
    clock.now += 2
    assert not contests.holds(EMAILS)


def test_repairs_that_are_far_apart_and_what_is_declared_anew_are_none(clock: Clock) -> None:
    contests = Contests()
    for _ in range(9):
        contests.note([(EMAILS, "DriftRepaired")])
        contests.note([(LETTERS, "Updated")])
        contests.note([(LETTERS, "Created")])
        clock.now += 151
        assert not contests.holds(EMAILS)
        assert not contests.holds(LETTERS)


def test_what_is_wrong_comes_first(clock: Clock) -> None:
    contests = Contests()
    for _ in range(3):
        contests.note([(EMAILS, "DriftRepaired")])
        clock.now += 1
    for verdict in (verdicts.waiting("Applying", "soon"), verdicts.stalled("InvalidSpec", "no")):
        assert contests.judged(EMAILS, verdict) == verdict


def test_queues_that_are_no_more_are_forgotten(clock: Clock) -> None:
    contests = Contests()
    for number in range(100):
        contests.note([(Key("shop", f"q{number}"), "Recreated")])
    clock.now += 301
    contests.note([(EMAILS, "Recreated")])
    assert list(contests.remembered) == [EMAILS]
