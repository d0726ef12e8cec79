"""What the demo knows for sure: read from the tables, by the database's clock, after the fact.

The example's handler writes a row when it begins with a message and completes it when it is done. Together with the
messages and the history of the workers that tells what was lost, what was handled twice and why, and how long it took
until a message of a killed process was in another's hands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PROGRESS = """
SELECT json_build_object(
    'ready', count(*) FILTER (WHERE archived_at IS NULL AND vt <= now()),
    'leased', count(*) FILTER (WHERE archived_at IS NULL AND vt > now()),
    'done', count(*) FILTER (WHERE archived_at IS NOT NULL AND dead_reason IS NULL),
    'dead', count(*) FILTER (WHERE dead_reason IS NOT NULL))
FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id WHERE q.queue_name = 'emails'
"""

_SUMMARY = """
WITH handled AS (
    SELECT message_id, count(*) FILTER (WHERE ended_at IS NOT NULL) AS times FROM emails_sent GROUP BY message_id
)
SELECT json_build_object(
    'sent', (SELECT count(*) FROM pgqrs_messages),
    'handled', (SELECT count(*) FROM handled WHERE times > 0),
    'twice', (SELECT count(*) FROM handled WHERE times > 1),
    'lost', (SELECT count(*) FROM pgqrs_messages m WHERE NOT EXISTS (
                SELECT FROM emails_sent e WHERE e.message_id = m.id AND e.ended_at IS NOT NULL)),
    'not_archived', (SELECT count(*) FROM pgqrs_messages WHERE archived_at IS NULL OR dead_reason IS NOT NULL),
    'dead', (SELECT count(*) FROM pgqrs_messages WHERE dead_reason IS NOT NULL))
"""

# Every delivery after the first, with how the worker of the delivery before it ended.
_REDELIVERIES = """
SELECT coalesce(json_agg(json_build_object(
    'message', again.message_id, 'attempt', again.attempt, 'worker', before.worker_id, 'pod', before.pod,
    'finished_before', before.ended_at IS NOT NULL,
    'cause', coalesce(w.stop_reason, w.status::text),
    'started_at', extract(epoch FROM again.started_at)) ORDER BY again.started_at), '[]')
FROM emails_sent again
JOIN emails_sent before ON before.message_id = again.message_id AND before.attempt = again.attempt - 1
LEFT JOIN pgqrs_workers w ON w.id = before.worker_id
"""

_HOLDERS = """
SELECT coalesce(json_object_agg(pod_name, ids), '{}') FROM (
    SELECT w.pod_name, json_agg(w.id) AS ids FROM pgqrs_workers w
    WHERE w.status IN ('ready', 'polling')
      AND EXISTS (SELECT FROM pgqrs_messages m WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL)
    GROUP BY w.pod_name) holders
"""


@dataclass(frozen=True, slots=True)
class Redelivery:
    """A message that somebody got after somebody else had it."""

    message: int
    worker: int
    pod: str
    finished_before: bool
    cause: str
    started_at: float


class Ledger:
    """Questions to the demo's database."""

    def __init__(self, query: Callable[[str], str]) -> None:
        """Take something that runs SQL and gives the one value that it selects, as text."""
        self._query = query

    def progress(self) -> dict[str, int]:
        """How many messages are ready, leased, done and dead."""
        return self._numbers(_PROGRESS)

    def summary(self) -> dict[str, int]:
        """How many were sent, handled, handled twice, lost and left over."""
        return self._numbers(_SUMMARY)

    def redeliveries(self) -> list[Redelivery]:
        """Every delivery after a message's first one."""
        return [
            Redelivery(
                message=row["message"],
                worker=row["worker"],
                pod=row["pod"],
                finished_before=row["finished_before"],
                cause=row["cause"],
                started_at=float(row["started_at"]),
            )
            for row in json.loads(self._query(_REDELIVERIES))
        ]

    def holders(self) -> dict[str, list[int]]:
        """The pods that hold messages at this moment, with their workers' ids."""
        found: dict[str, list[int]] = json.loads(self._query(_HOLDERS))
        return found

    def _numbers(self, statement: str) -> dict[str, int]:
        numbers: dict[str, int] = json.loads(self._query(statement))
        return numbers
