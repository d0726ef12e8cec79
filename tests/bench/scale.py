"""How long everything takes: the run for the record, and the one to see that all of it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Durations in seconds, and numbers of messages."""

    name: str
    rounds: int
    #: How long the enqueue works and the work on a standing backlog take.
    enqueue_seconds: float
    backlog_seconds: float
    #: A backlog for one process is the setting's rate times this; see `contenders.Setting`.
    run_seconds: float
    latency_messages: int
    large_backlog: int
    #: How long messages are offered without and with a snapshot held open.
    normal_seconds: float
    snapshot_seconds: float
    #: After the last message was offered, how long a worker may need for what is left.
    grace_seconds: float
    workers: int = 100_000
    beats: int = 3
    offered_per_second: float = 300.0


FULL = Scale(
    name="full",
    rounds=3,
    enqueue_seconds=1.0,
    backlog_seconds=2.0,
    run_seconds=1.5,
    latency_messages=300,
    large_backlog=1_000_000,
    normal_seconds=15.0,
    snapshot_seconds=180.0,
    grace_seconds=15.0,
)
QUICK = Scale(
    name="quick",
    rounds=1,
    enqueue_seconds=0.3,
    backlog_seconds=0.5,
    run_seconds=0.4,
    latency_messages=40,
    large_backlog=200_000,
    normal_seconds=3.0,
    snapshot_seconds=20.0,
    grace_seconds=5.0,
)
#: The shortest run in which every program still does each of its steps; its numbers mean nothing.
SMOKE = Scale(
    name="smoke",
    rounds=1,
    enqueue_seconds=0.05,
    backlog_seconds=0.1,
    run_seconds=0.05,
    latency_messages=5,
    large_backlog=5_000,
    normal_seconds=1.0,
    snapshot_seconds=1.0,
    grace_seconds=5.0,
    workers=1000,
    beats=2,
)
SCALES = {scale.name: scale for scale in (FULL, QUICK, SMOKE)}
