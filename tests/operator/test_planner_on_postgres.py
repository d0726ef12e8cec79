"""The planner's actions on real tables do what `planner_rows` says they do, so its properties hold there too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import HealthCheck, given, settings

import pgqrs
from pgqrs import fleet, rows
from pgqrs.models import WorkerStatus
from pgqrs_operator.actions import carry_out
from pgqrs_operator.facts import Observed
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.plan import plan
from tests.operator.planner_model import Cluster
from tests.operator.planner_rows import POD_NAMES, QueueRow, WorkerRow
from tests.operator.planner_steps import STEPS, do

if TYPE_CHECKING:
    from pgqrs.database import Database
    from tests.operator.planner_rows import Rows

_MAKE_QUEUE = """
    INSERT INTO pgqrs_queues (id, queue_name, paused, lease_duration, read_limit, death_limit, heartbeat_timeout,
                              dedup_window, backoff_first, backoff_factor, backoff_most, backoff_jitter,
                              archive_retention, dead_retention, worker_retention, owner)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""
_MAKE_WORKER = """
    INSERT INTO pgqrs_workers (id, name, queue_id, pod_uid, pod_name, pod_namespace, status, owner, terminating,
                               heartbeat_at)
    OVERRIDING SYSTEM VALUE
    SELECT $1, $2, q.id, $4, $5, CASE WHEN $4::text IS NOT NULL THEN 'shop' END, $6::text::worker_status, $7, $8,
           CASE WHEN $9 THEN now() - interval '2 days' ELSE now() END
    FROM pgqrs_queues q WHERE q.queue_name = $3
"""
_MAKE_MESSAGES = """
    INSERT INTO pgqrs_messages (queue_id, payload, consumer_worker_id)
    SELECT q.id, '{}', $2 FROM pgqrs_queues q, generate_series(1, $3::int) WHERE q.queue_name = $1
"""
_MAKE_ORPHANS = "INSERT INTO pgqrs_messages (queue_id, payload) SELECT $1, '{}' FROM generate_series(1, $2::int)"
_DRAWN = "SELECT setval('pgqrs_queues_id_seq', greatest($1::bigint, 1), $1 > 0)"
_ORPHANS = """
    SELECT m.queue_id, count(*)::int AS free FROM pgqrs_messages m
    WHERE NOT EXISTS (SELECT FROM pgqrs_queues q WHERE q.id = m.queue_id) GROUP BY m.queue_id
"""
_FREE = """
    SELECT q.queue_name, count(m.id)::int AS free FROM pgqrs_queues q
        LEFT JOIN pgqrs_messages m ON m.queue_id = q.id AND m.consumer_worker_id IS NULL AND m.archived_at IS NULL
    GROUP BY q.queue_name
"""
_WORKERS = """
    SELECT w.id, w.name, q.queue_name, w.pod_uid, w.status::text, w.owner, w.terminating,
           w.heartbeat_at < now() - interval '1 day' AS silent,
           (SELECT count(*)::int FROM pgqrs_messages m
            WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL) AS held
    FROM pgqrs_workers w JOIN pgqrs_queues q ON q.id = w.queue_id ORDER BY w.id
"""


async def write(db: Database, wanted: Rows) -> None:
    """Make the tables say what the rows in memory say."""
    async with db.transaction() as transaction:
        connection = transaction.connection
        await connection.execute("TRUNCATE pgqrs_messages, pgqrs_workers, pgqrs_queues CASCADE")
        for name, queue in wanted.queues.items():
            policy, kept = queue.policy, queue.retention
            await connection.execute(
                _MAKE_QUEUE, wanted.ids[name], name, policy.paused, policy.lease_duration, policy.read_limit,
                policy.death_limit, policy.heartbeat_timeout, policy.deduplication_window, policy.backoff.first,
                policy.backoff.factor, policy.backoff.most, policy.backoff.jitter, kept.archived, kept.dead,
                kept.workers, queue.owner,
            )  # fmt: skip
            await connection.execute(_MAKE_MESSAGES, name, None, queue.free)
        for row_id, free in wanted.orphans.items():
            await connection.execute(_MAKE_ORPHANS, row_id, free)
        await connection.fetchval(_DRAWN, wanted.drawn)
        for number, row in wanted.workers.items():
            # Another one may have its name by now.
            name = f"{row.name}#{number}" if row.status is WorkerStatus.STOPPED else row.name
            await connection.execute(
                _MAKE_WORKER, number, name, row.queue, row.pod, POD_NAMES.get(row.pod or ""), row.status.value,
                row.owner, row.terminating, row.silent,
            )  # fmt: skip
            await connection.execute(_MAKE_MESSAGES, row.queue, number, row.held)


class Said(NamedTuple):
    """What tables say, or rows in memory."""

    queues: dict[str, QueueRow]
    workers: dict[int, WorkerRow]
    #: Of new rows no ids: a sequence leaves out numbers.
    ids: dict[str, int | None]
    orphans: dict[int, int]


def expected_of(wanted: Rows, drawn: int) -> Said:
    """Say what the tables have to say; `drawn` is the last id of a queue before."""
    return Said(wanted.queues, wanted.workers, _old(wanted.ids, drawn), wanted.orphans)


def _old(ids: dict[str, int], drawn: int) -> dict[str, int | None]:
    return {name: row_id if row_id <= drawn else None for name, row_id in ids.items()}


async def read(db: Database, drawn: int) -> Said:
    """Give what the tables say."""
    async with db.transaction() as transaction:
        free = {row["queue_name"]: row["free"] for row in await transaction.connection.fetch(_FREE)}
        found = await transaction.connection.fetch(_WORKERS)
        orphans = {row["queue_id"]: row["free"] for row in await transaction.connection.fetch(_ORPHANS)}
        listed = [rows.queue(row) for row in await transaction.fetch("queues.list")]
    queues = {
        info.queue_name: QueueRow(info.policy, info.retention, info.owner, free[info.queue_name]) for info in listed
    }
    workers = {
        row["id"]: WorkerRow(
            row["name"].partition("#")[0], row["queue_name"], row["pod_uid"], WorkerStatus(row["status"]), row["owner"],
            row["terminating"], row["silent"], row["held"],
        )
        for row in found
    }  # fmt: skip
    return Said(queues, workers, _old({info.queue_name: info.id for info in listed}, drawn), orphans)


@given(STEPS, STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_on_real_tables_the_same_comes_true(
    admin: pgqrs.Admin, first: list[tuple[Any, ...]], more: list[tuple[Any, ...]]
) -> None:
    db, cluster = admin.database, Cluster()
    for steps in (first, more):
        for step in steps:
            do(cluster, step)
        await write(db, cluster.rows)
        drawn = cluster.rows.drawn
        while True:
            desired, observed = cluster.facts()
            found = await fleet.observe(
                db,
                queues=[one.name for one in desired.queues],
                emptying=[one.name for one in desired.queues if one.deleting and one.delete_data],
                workers=[one.row_name for one in desired.workers if one.row_name],
                pods=[one.pod_uid for one in desired.workers if one.pod_uid],
            )
            planned = plan(desired, Observed(fleet=found, ended=observed.ended))
            expected = plan(desired, observed)
            assert (planned.queues, planned.workers, planned.reports) == (
                expected.queues,
                expected.workers,
                expected.reports,
            )
            if not planned.actions:
                assert not expected.actions
                break
            assert (await carry_out(db, planned.actions, Metrics())).complete
            cluster.rows.carry_out(expected.actions)
            assert await read(db, drawn) == expected_of(cluster.rows, drawn)
        cluster.settle()
