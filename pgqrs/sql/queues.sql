-- name: create
INSERT INTO {schema}.pgqrs_queues AS q
    (queue_name, paused, lease_duration, read_limit, heartbeat_timeout, backoff_first, backoff_factor, backoff_most,
     backoff_jitter, death_limit, dedup_window, archive_retention, dead_retention, worker_retention)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (queue_name) DO NOTHING
RETURNING {queue_columns}

-- name: get
SELECT {queue_columns} FROM {schema}.pgqrs_queues q WHERE q.queue_name = $1

-- name: list
SELECT {queue_columns} FROM {schema}.pgqrs_queues q ORDER BY q.queue_name

-- name: set_policy
UPDATE {schema}.pgqrs_queues q
SET paused = $2, lease_duration = $3, read_limit = $4, heartbeat_timeout = $5, backoff_first = $6, backoff_factor = $7,
    backoff_most = $8, backoff_jitter = $9, death_limit = $10, dedup_window = $11
WHERE q.queue_name = $1
RETURNING {queue_columns}

-- name: set_retention
UPDATE {schema}.pgqrs_queues q
SET archive_retention = $2, dead_retention = $3, worker_retention = $4
WHERE q.queue_name = $1
RETURNING {queue_columns}

-- name: names
-- To find the one that was meant.
SELECT q.queue_name FROM {schema}.pgqrs_queues q ORDER BY q.queue_name LIMIT 10000

-- name: last_message
-- What is sent from now on has a higher id.
SELECT coalesce(max(id), 0) FROM {schema}.pgqrs_messages

-- name: purge_live
-- A slice of the live messages of the queue $1, leased ones included, up to the id $2. A message that somebody finishes or
-- leases at this moment is met by the next slice, or is gone.
WITH target AS MATERIALIZED (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.queue_id = $1 AND m.archived_at IS NULL AND m.id <= $2 AND {unreferenced}
    ORDER BY m.vt
    LIMIT $3
    FOR UPDATE OF m SKIP LOCKED
)
DELETE FROM {schema}.pgqrs_messages m WHERE m.id = {chosen} RETURNING m.id

-- name: purge_archive
-- The same of the archived messages, dead letters included.
WITH target AS MATERIALIZED (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.queue_id = $1 AND m.archived_at IS NOT NULL AND m.id <= $2 AND {unreferenced}
    ORDER BY m.archived_at
    LIMIT $3
    FOR UPDATE OF m SKIP LOCKED
)
DELETE FROM {schema}.pgqrs_messages m WHERE m.id = {chosen} RETURNING m.id

-- name: counts
-- $1 one queue only, or NULL for all; $2 the most that is counted of each. `archive` is how many archived messages were
-- looked at, dead ones included.
SELECT q.queue_name, ready.ready, later.delayed, later.leased, dead.dead, archived.archived, archived.archive
FROM {schema}.pgqrs_queues q, {live_counts}, LATERAL (
    SELECT count(*) FILTER (WHERE found.dead_reason IS NULL)::int AS archived, count(*)::int AS archive
    FROM (
        SELECT m.dead_reason FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = q.id AND m.archived_at IS NOT NULL ORDER BY m.archived_at LIMIT $2::int
    ) found
) archived
WHERE $1::text IS NULL OR q.queue_name = $1

-- name: lock
SELECT q.id, q.owner FROM {schema}.pgqrs_queues q WHERE q.queue_name = $1 FOR UPDATE

-- name: live_messages
SELECT count(*) FROM (
    SELECT FROM {schema}.pgqrs_messages m WHERE m.queue_id = $1 AND m.archived_at IS NULL ORDER BY m.vt LIMIT 10000
) live

-- name: short_wait
SET LOCAL lock_timeout = '1s'

-- name: close_messages
-- Clients of other makes insert without a lock on the queue. While this one is held nobody inserts, so what is counted is
-- what there is; taken before the lock on the queue,
-- which an insert asks for second, and for a moment only.
LOCK TABLE {schema}.pgqrs_messages IN SHARE ROW EXCLUSIVE MODE

-- name: delete_history
-- A slice of what is archived, so that a long history is removed in many short statements.
WITH target AS MATERIALIZED (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.queue_id = $1 AND m.archived_at IS NOT NULL
    ORDER BY m.archived_at
    LIMIT $2
)
DELETE FROM {schema}.pgqrs_messages m WHERE m.id = {chosen} RETURNING m.id

-- name: delete_workers
DELETE FROM {schema}.pgqrs_workers WHERE queue_id = $1

-- name: delete
DELETE FROM {schema}.pgqrs_queues WHERE id = $1
