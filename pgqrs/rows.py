"""Turns rows of the database into the values of `models`; the only place that knows column names."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pgqrs.backoff import Backoff
from pgqrs.models import (
    MAX_COUNT,
    DeadLetterInfo,
    Message,
    MessageId,
    QueueCounts,
    QueueId,
    QueueInfo,
    QueuePolicy,
    QueueRetention,
    Timestamp,
    WorkerId,
    WorkerInfo,
    WorkerStatus,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from pgqrs.database import Record


#: So many policies are shared by queues that have the same: thousands of them are read every few seconds.
_SHARED = 1000
#: The columns of a policy, in the order in which `_policy` takes them.
_POLICY = (
    "paused",
    "lease_duration",
    "read_limit",
    "death_limit",
    "heartbeat_timeout",
    "dedup_window",
    "backoff_first",
    "backoff_factor",
    "backoff_most",
    "backoff_jitter",
)


def _moment(value: datetime | None) -> Timestamp | None:
    return None if value is None else Timestamp.of(value)


def _headers(text: str | None) -> dict[str, Any]:
    """Read headers; what somebody else wrote there and is no object counts as none."""
    found = None if text is None else json.loads(text)
    return found if isinstance(found, dict) else {}


def worker(row: Record) -> WorkerInfo:
    """Read the columns of the fragment `worker_columns`, with or without `leased`."""
    return WorkerInfo(
        id=WorkerId(row["id"]),
        name=row["name"],
        hostname=row["hostname"],
        port=row["port"],
        queue_id=row["queue_id"],
        status=WorkerStatus(row["status"]),
        started_at=_moment(row["started_at"]),
        heartbeat_at=_moment(row["heartbeat_at"]),
        shutdown_at=_moment(row["shutdown_at"]),
        pod_uid=row["pod_uid"],
        pod_name=row["pod_name"],
        pod_namespace=row["pod_namespace"],
        cluster=row["cluster"],
        container=row["container"],
        terminating=row["terminating"],
        stop_reason=row["stop_reason"],
        leased=row.get("leased", 0),
    )


def queue(row: Record) -> QueueInfo:
    """Read the columns of the fragment `queue_columns`."""
    return QueueInfo(
        id=QueueId(row["id"]),
        queue_name=row["queue_name"],
        created_at=Timestamp.of(row["created_at"]),
        policy=_policy(tuple([row[name] for name in _POLICY])),
        owner=row["owner"],
        retention=_retention(row["archive_retention"], row["dead_retention"], row["worker_retention"]),
    )


@lru_cache(maxsize=_SHARED)
def _policy(values: tuple[Any, ...]) -> QueuePolicy:
    paused, lease_duration, read_limit, death_limit, heartbeat_timeout, window, first, factor, most, jitter = values
    return QueuePolicy(
        paused=paused,
        lease_duration=lease_duration,
        read_limit=read_limit,
        death_limit=death_limit,
        heartbeat_timeout=heartbeat_timeout,
        deduplication_window=window,
        backoff=Backoff(first=first, factor=factor, most=most, jitter=jitter),
    )


@lru_cache(maxsize=_SHARED)
def _retention(archived: timedelta | None, dead: timedelta | None, workers: timedelta | None) -> QueueRetention:
    return QueueRetention(archived=archived, dead=dead, workers=workers)


def messages(
    found: Sequence[Record], worker_id: WorkerId, loads: Callable[[str], Any]
) -> tuple[list[Message], dict[MessageId, str]]:
    """Read the messages of the fragment `lease_answer`.

    Returns:
        The messages, and for each that `loads` cannot read a reason for giving it up. It tells the kind of the error
        alone: the text of such errors quotes what was to be read.
    """
    readable: list[Message] = []
    unreadable: dict[MessageId, str] = {}
    if len(found) > 1:
        queue_id, vt = QueueId(found[0]["queue_id"]), Timestamp.of(found[0]["vt"])
    for row in found[1:]:
        what = "the codec cannot read the payload"
        try:
            payload = loads(row["payload"])
            what = "headers or times cannot be read"
            message = Message(
                id=row["id"],
                queue_id=queue_id,
                payload=payload,
                enqueued_at=Timestamp.of(row["enqueued_at"]),
                vt=vt,
                read_ct=row["read_ct"],
                consumer_worker_id=worker_id,
                headers=_headers(row["headers"]),
                key=row["dedup_key"],
            )
        except Exception as error:  # noqa: BLE001 - a codec of the app's own may raise anything
            unreadable[row["id"]] = f"{what} ({type(error).__name__})"
        else:
            readable.append(message)
    return readable, unreadable


def dead_letter(row: Record, loads: Callable[[str], Any]) -> DeadLetterInfo:
    """Read a message as `dead_letters.list` returns it."""
    return DeadLetterInfo(
        id=MessageId(row["id"]),
        queue_id=QueueId(row["queue_id"]),
        payload=loads(row["payload"]),
        reason=row["dead_reason"],
        died_at=Timestamp.of(row["archived_at"]),
        enqueued_at=Timestamp.of(row["enqueued_at"]),
        read_ct=row["read_ct"],
        headers=_headers(row["headers"]),
        key=row["dedup_key"],
    )


def counts(row: Record) -> QueueCounts:
    """Read numbers that were counted up to one more than `MAX_COUNT`, with or without the archive."""
    found = {name: row.get(name, 0) for name in ("ready", "delayed", "leased", "dead", "archived")}
    looked_at = {
        **found,
        "delayed": found["delayed"] + found["leased"],
        "leased": found["delayed"] + found["leased"],
        "archived": row.get("archive", 0),
    }
    capped = tuple(name for name, number in looked_at.items() if number > MAX_COUNT)
    return QueueCounts(**{name: min(number, MAX_COUNT) for name, number in found.items()}, capped=capped)
