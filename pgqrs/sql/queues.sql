-- name: create
INSERT INTO {schema}.pgqrs_queues AS q (queue_name, paused, lease_duration, read_limit, heartbeat_timeout)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (queue_name) DO NOTHING
RETURNING {queue_columns}

-- name: get
SELECT {queue_columns} FROM {schema}.pgqrs_queues q WHERE q.queue_name = $1

-- name: list
SELECT {queue_columns} FROM {schema}.pgqrs_queues q ORDER BY q.queue_name

-- name: set_policy
UPDATE {schema}.pgqrs_queues q
SET paused = $2, lease_duration = $3, read_limit = $4, heartbeat_timeout = $5
WHERE q.queue_name = $1
RETURNING {queue_columns}

-- name: counts
SELECT count(*) FILTER (WHERE m.archived_at IS NULL AND m.vt <= now())::int AS ready,
       count(*) FILTER (WHERE m.archived_at IS NULL AND m.vt > now() AND m.consumer_worker_id IS NULL)::int AS delayed,
       count(*) FILTER (WHERE m.archived_at IS NULL AND m.vt > now() AND m.consumer_worker_id IS NOT NULL)::int AS leased,
       count(*) FILTER (WHERE m.dead_reason IS NOT NULL)::int AS dead,
       count(*) FILTER (WHERE m.archived_at IS NOT NULL AND m.dead_reason IS NULL)::int AS archived
FROM {schema}.pgqrs_messages m
WHERE m.queue_id = (SELECT q.id FROM {schema}.pgqrs_queues q WHERE q.queue_name = $1)

-- name: lock
SELECT q.id FROM {schema}.pgqrs_queues q WHERE q.queue_name = $1 FOR UPDATE

-- name: live_messages
SELECT count(*) FROM (
    SELECT FROM {schema}.pgqrs_messages m WHERE m.queue_id = $1 AND m.archived_at IS NULL LIMIT 10000
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
DELETE FROM {schema}.pgqrs_messages m
WHERE m.id IN (SELECT a.id FROM {schema}.pgqrs_messages a WHERE a.queue_id = $1 AND a.archived_at IS NOT NULL LIMIT $2)
RETURNING m.id

-- name: delete_workers
DELETE FROM {schema}.pgqrs_workers WHERE queue_id = $1

-- name: delete
DELETE FROM {schema}.pgqrs_queues WHERE id = $1
