-- name: beat
-- One statement per interval for everything of a pod; what it returns is how a change from outside reaches the pod: only what
-- changes, because this is the most frequent statement of all.
-- Locked in the order of ids, as by everybody, against deadlocks.
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w
    WHERE w.pod_uid = $1 AND w.status <> 'stopped' AND w.id <> ALL($2::bigint[])
    ORDER BY w.id FOR NO KEY UPDATE
), beaten AS (
    UPDATE {schema}.pgqrs_workers w SET heartbeat_at = now() FROM target WHERE w.id = target.id
)
SELECT w.id, w.status::text AS status, w.heartbeat_at, {leased}
FROM {schema}.pgqrs_workers w WHERE w.pod_uid = $1 AND w.status <> 'stopped'
ORDER BY w.id

-- name: live
SELECT {worker_columns}, {leased} FROM {schema}.pgqrs_workers w WHERE w.pod_uid = $1 AND w.status <> 'stopped' ORDER BY w.id

-- name: begin_termination
-- `interrupted` is upstream's word for "no new messages, finish what is leased"; the mark keeps others from resuming the row.
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w WHERE w.pod_uid = $1 AND w.status <> 'stopped' ORDER BY w.id FOR NO KEY UPDATE
)
UPDATE {schema}.pgqrs_workers w
SET terminating = true,
    status = CASE WHEN w.status IN ('ready', 'polling') THEN 'interrupted' ELSE w.status END
FROM target WHERE w.id = target.id

-- name: to_stop
SELECT w.id FROM {schema}.pgqrs_workers w
WHERE w.pod_uid = $1 AND w.status <> 'stopped'
ORDER BY w.id

-- name: assign
-- A process of the pod takes this row. The queue must be the row's own, or the process would be served from another one.
UPDATE {schema}.pgqrs_workers w SET container = $4, heartbeat_at = now()
WHERE w.id = $1 AND w.pod_uid = $2 AND w.status <> 'stopped'
  AND w.queue_id = (SELECT q.id FROM {schema}.pgqrs_queues q WHERE q.queue_name = $3)
RETURNING {worker_columns}, {leased}

-- name: suspend
-- The end of a drain. A row that still holds something stays interrupted: only an empty worker can be suspended.
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w
    WHERE w.pod_uid = $1 AND w.status = 'interrupted' AND w.terminating ORDER BY w.id FOR NO KEY UPDATE
)
UPDATE {schema}.pgqrs_workers w SET status = 'suspended'
FROM target
WHERE w.id = target.id
  AND NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL)
