-- name: queues
-- $1 names; $2 those of them whose live messages are counted too (up to 10,000), because somebody waits for none to be left.
SELECT {queue_columns},
       CASE WHEN q.queue_name = ANY($2::text[]) THEN (
           SELECT count(*)::int FROM (
               SELECT FROM {schema}.pgqrs_messages m WHERE m.queue_id = q.id AND m.archived_at IS NULL LIMIT 10000
           ) live
       ) END AS live
FROM {schema}.pgqrs_queues q
WHERE q.queue_name = ANY($1::text[])

-- name: workers
-- Everything alive of these queues, under these names, or of these pods; who is how late by the server's own clock.
SELECT {worker_columns}, {leased}, w.owner, q.queue_name,
       w.heartbeat_at < now() - coalesce(q.heartbeat_timeout, interval '60 seconds') AS silent,
       w.heartbeat_at < now() - coalesce(q.heartbeat_timeout, interval '60 seconds') / 2 AS stale
FROM {schema}.pgqrs_workers w LEFT JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id
WHERE w.status <> 'stopped'
  AND (w.queue_id IN (SELECT d.id FROM {schema}.pgqrs_queues d WHERE d.queue_name = ANY($1::text[]))
       OR w.name = ANY($2::text[]) OR w.pod_uid = ANY($3::text[]))
ORDER BY w.id

-- name: message_counts
-- $1 names, $2 the most that is counted of each.
SELECT q.queue_name, ready.ready, later.delayed, later.leased, dead.dead
FROM {schema}.pgqrs_queues q, {live_counts}
WHERE q.queue_name = ANY($1::text[])

-- name: worker_counts
SELECT q.queue_name,
       count(*) FILTER (WHERE w.status IN ('ready', 'polling'))::int AS ready,
       count(*) FILTER (WHERE w.status IN ('suspended', 'interrupted'))::int AS suspended,
       count(*) FILTER (WHERE w.status = 'stopped')::int AS stopped
FROM {schema}.pgqrs_queues q JOIN {schema}.pgqrs_workers w ON w.queue_id = q.id
WHERE q.queue_name = ANY($1::text[])
GROUP BY q.queue_name

-- name: create
INSERT INTO {schema}.pgqrs_queues (queue_name, paused, lease_duration, read_limit, heartbeat_timeout, owner)
SELECT d.queue_name, d.paused, d.lease_duration, d.read_limit, d.heartbeat_timeout, d.owner
FROM unnest($1::text[], $2::boolean[], $3::interval[], $4::int[], $5::interval[], $6::text[])
    AS d (queue_name, paused, lease_duration, read_limit, heartbeat_timeout, owner)
ON CONFLICT (queue_name) DO NOTHING

-- name: declare
-- Only where the owner still is who it was when this was decided: two that decide at once never take a row from each other.
UPDATE {schema}.pgqrs_queues q
SET paused = d.paused, lease_duration = d.lease_duration, read_limit = d.read_limit,
    heartbeat_timeout = d.heartbeat_timeout, owner = d.owner
FROM unnest($1::text[], $2::boolean[], $3::interval[], $4::int[], $5::interval[], $6::text[], $7::text[])
    AS d (queue_name, paused, lease_duration, read_limit, heartbeat_timeout, owner, previous_owner)
WHERE q.queue_name = d.queue_name AND q.owner IS NOT DISTINCT FROM d.previous_owner

-- name: disown
UPDATE {schema}.pgqrs_queues q SET owner = NULL
FROM unnest($1::text[], $2::text[]) AS d (queue_name, owner)
WHERE q.queue_name = d.queue_name AND q.owner = d.owner

-- name: interrupt
-- $2: who holds these workers back, so that the same one lets them go again. Locked in the order of ids, against deadlocks.
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w
    WHERE w.id = ANY($1::bigint[]) AND w.status IN ('ready', 'polling') AND NOT w.terminating
    ORDER BY w.id FOR NO KEY UPDATE
)
UPDATE {schema}.pgqrs_workers w SET status = 'interrupted', owner = d.owner
FROM target, unnest($1::bigint[], $2::text[]) AS d (id, owner)
WHERE w.id = target.id AND d.id = target.id

-- name: lock
-- The same lock that a dequeue takes on its worker: while it is held, no message is handed to these workers.
SELECT w.id FROM {schema}.pgqrs_workers w WHERE w.id = ANY($1::bigint[]) ORDER BY w.id FOR NO KEY UPDATE

-- name: suspend
-- After `lock` in the same transaction, as a statement of its own, whose snapshot holds every lease that was given before.
UPDATE {schema}.pgqrs_workers w SET status = 'suspended'
WHERE w.id = ANY($1::bigint[]) AND w.status = 'interrupted' AND NOT w.terminating
  AND NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL)

-- name: resume
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w
    WHERE w.id = ANY($1::bigint[]) AND w.status <> 'stopped' AND NOT w.terminating
    ORDER BY w.id FOR NO KEY UPDATE
)
UPDATE {schema}.pgqrs_workers w
SET status = CASE WHEN w.status IN ('suspended', 'interrupted') THEN 'ready' ELSE w.status END, owner = NULL
FROM target WHERE w.id = target.id

-- name: lock_silent
-- Those that still are silent; a heartbeat that came in the meantime saves its worker.
SELECT w.id FROM {schema}.pgqrs_workers w
WHERE w.id = ANY($1::bigint[]) AND w.status <> 'stopped'
  AND w.heartbeat_at < now() - (
      SELECT q.heartbeat_timeout FROM {schema}.pgqrs_queues q WHERE q.id = w.queue_id
  )
ORDER BY w.id FOR NO KEY UPDATE

-- name: lock_idle
-- Those that hold nothing and are given nothing any more.
SELECT w.id FROM {schema}.pgqrs_workers w
WHERE w.id = ANY($1::bigint[]) AND w.status IN ('interrupted', 'suspended')
  AND NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL)
ORDER BY w.id FOR NO KEY UPDATE
