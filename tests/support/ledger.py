"""What tests and the demo know for sure: read from the tables, by the database's clock, after the fact.

A handler writes a row when it begins with a message and completes it when it is done. Together with the messages and
the history of the workers that tells what was lost, what was handled twice and why, and how long it took until a
message of a dead process was in another's hands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The ledger of the tests' own apps; the example's `emails_sent` has most of these columns. While a handler runs it
#: sets `seen_at` several times a second, so the last one is the time of its process's death.
TABLE = """
CREATE TABLE ledger (
    id bigserial PRIMARY KEY,
    message_id bigint NOT NULL, attempt int NOT NULL, worker_id bigint NOT NULL,
    pod_uid text NOT NULL, pod text NOT NULL, container text NOT NULL, process int NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz);
CREATE INDEX ON ledger (message_id, started_at)
"""

_PROGRESS = """
SELECT json_build_object(
    'ready', count(*) FILTER (WHERE archived_at IS NULL AND vt <= now()),
    'leased', count(*) FILTER (WHERE archived_at IS NULL AND vt > now()),
    'done', count(*) FILTER (WHERE archived_at IS NOT NULL AND dead_reason IS NULL),
    'dead', count(*) FILTER (WHERE dead_reason IS NOT NULL))
FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id WHERE q.queue_name = '{queue}'
"""

_SUMMARY = """
WITH sent AS (
    SELECT m.* FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id WHERE q.queue_name = '{queue}'
), handled AS (
    SELECT e.message_id, count(*) AS starts, count(*) FILTER (WHERE e.ended_at IS NOT NULL) AS times
    FROM {table} e JOIN sent ON sent.id = e.message_id GROUP BY e.message_id
)
SELECT json_build_object(
    'sent', (SELECT count(*) FROM sent),
    'handled', (SELECT count(*) FROM handled WHERE times > 0),
    'twice', (SELECT count(*) FROM handled WHERE times > 1),
    'redelivered', (SELECT count(*) FROM handled WHERE starts > 1),
    'lost', (SELECT count(*) FROM sent WHERE NOT EXISTS (
                SELECT FROM {table} e WHERE e.message_id = sent.id AND e.ended_at IS NOT NULL)),
    'not_archived', (SELECT count(*) FROM sent WHERE archived_at IS NULL OR dead_reason IS NOT NULL),
    'dead', (SELECT count(*) FROM sent WHERE dead_reason IS NOT NULL))
"""

# A message that is given back is delivered again with the same attempt, so only the time orders its deliveries.
# Every delivery after the first, with how the worker of the delivery before it ended.
_REDELIVERIES = """
WITH starts AS (
    SELECT e.message_id, e.started_at, lag(e.worker_id) OVER deliveries AS worker, lag(e.pod) OVER deliveries AS pod,
        lag(e.ended_at) OVER deliveries IS NOT NULL AS finished_before, row_number() OVER deliveries AS number
    FROM {table} e
    JOIN pgqrs_messages m ON m.id = e.message_id
    JOIN pgqrs_queues q ON q.id = m.queue_id AND q.queue_name = '{queue}'
    WINDOW deliveries AS (PARTITION BY e.message_id ORDER BY e.started_at, e.id)
)
SELECT coalesce(json_agg(json_build_object(
    'message', message_id, 'worker', worker, 'pod', pod, 'finished_before', finished_before,
    'cause', coalesce(w.stop_reason, w.status::text),
    'started_at', extract(epoch FROM starts.started_at)) ORDER BY starts.started_at), '[]')
FROM starts LEFT JOIN pgqrs_workers w ON w.id = worker
WHERE number > 1
"""

# From the last sign of life of a handler that never ended to the next delivery of its message.
_CUT = """
WITH starts AS (
    SELECT e.started_at, lag(e.worker_id) OVER deliveries AS worker, lag(e.pod) OVER deliveries AS pod,
        lag(e.seen_at) OVER deliveries AS died_at, lag(e.ended_at) OVER deliveries IS NULL AS cut,
        row_number() OVER deliveries AS number
    FROM {table} e
    JOIN pgqrs_messages m ON m.id = e.message_id
    JOIN pgqrs_queues q ON q.id = m.queue_id AND q.queue_name = '{queue}'
    WINDOW deliveries AS (PARTITION BY e.message_id ORDER BY e.started_at, e.id)
)
SELECT coalesce(json_agg(json_build_object(
    'worker', worker, 'pod', pod, 'died_at', extract(epoch FROM died_at),
    'again_at', extract(epoch FROM started_at)) ORDER BY started_at), '[]')
FROM starts WHERE number > 1 AND cut
"""

_HOLDERS = """
SELECT coalesce(json_object_agg(pod_name, ids), '{{}}') FROM (
    SELECT w.pod_name, json_agg(w.id) AS ids FROM pgqrs_workers w
    WHERE w.status IN ('ready', 'polling')
      AND EXISTS (SELECT FROM pgqrs_messages m JOIN pgqrs_queues q ON q.id = m.queue_id AND q.queue_name = '{queue}'
                  WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL)
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
    """Questions about one queue to the database that it is in."""

    def __init__(self, query: Callable[[str], str], *, table: str = "ledger", queue: str) -> None:
        """Take the database.

        Args:
            query: runs SQL and gives the one value that it selects, as text.
            table: where the handlers write.
            queue: whose messages are looked at.
        """
        self._query = query
        self._names = {"table": table, "queue": queue}

    def progress(self) -> dict[str, int]:
        """How many messages are ready, leased, done and dead."""
        return self._numbers(_PROGRESS)

    def summary(self) -> dict[str, int]:
        """How many were sent, handled, handled twice, delivered twice, lost and left over."""
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
            for row in json.loads(self._ask(_REDELIVERIES))
        ]

    def deaths(self, *, since: Mapping[str, float] | None = None) -> list[list[float]]:
        """From each death to the next deliveries of what the process held, in seconds; for the tests' own table.

        Args:
            since: when pods died, as seconds of the database's epoch, where that was known by other means than by the
                process's last sign of life.
        """
        found: dict[int, list[float]] = {}
        for row in json.loads(self._ask(_CUT)):
            died_at = (since or {}).get(row["pod"], row["died_at"])
            found.setdefault(row["worker"], []).append(max(0.0, row["again_at"] - died_at))
        return list(found.values())

    def holders(self) -> dict[str, list[int]]:
        """The pods that hold messages at this moment, with their workers' ids."""
        found: dict[str, list[int]] = json.loads(self._ask(_HOLDERS))
        return found

    def _numbers(self, statement: str) -> dict[str, int]:
        numbers: dict[str, int] = json.loads(self._ask(statement))
        return numbers

    def _ask(self, statement: str) -> str:
        return self._query(statement.format(**self._names))
