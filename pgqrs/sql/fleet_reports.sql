-- name: worker_stats
-- One row per queue, and one without a name for workers that serve none. Stopped workers hold nothing, so what is leased
-- costs as much as there are workers alive. $1: one queue only.
SELECT q.queue_name,
       count(*) FILTER (WHERE w.status = 'ready')::int AS ready,
       count(*) FILTER (WHERE w.status = 'polling')::int AS polling,
       count(*) FILTER (WHERE w.status = 'interrupted')::int AS interrupted,
       count(*) FILTER (WHERE w.status = 'suspended')::int AS suspended,
       count(*) FILTER (WHERE w.status = 'stopped')::int AS stopped,
       count(*) FILTER (
           WHERE w.status <> 'stopped' AND w.heartbeat_at < now() - coalesce(q.heartbeat_timeout, interval '60 seconds')
       )::int AS silent,
       coalesce(sum(held.leased), 0)::int AS leased,
       max(now() - w.heartbeat_at) FILTER (WHERE w.status <> 'stopped') AS oldest_heartbeat
FROM {schema}.pgqrs_queues q
     FULL JOIN {schema}.pgqrs_workers w ON w.queue_id = q.id
     LEFT JOIN LATERAL (SELECT {leased}) held ON w.status <> 'stopped'
WHERE $1::text IS NULL OR q.queue_name = $1
GROUP BY q.queue_name
ORDER BY q.queue_name

-- name: worker_health
-- Everybody who is not stopped, the longest silent first, by the server's clock. $1: one queue only; $2: the age in
-- seconds from which a heartbeat is too old, or NULL for the queue's own heartbeat timeout.
SELECT {worker_columns}, {leased}, q.queue_name, now() - w.heartbeat_at AS age,
       coalesce(
           w.heartbeat_at >= now() - coalesce(
               make_interval(secs => $2::float8), q.heartbeat_timeout, interval '60 seconds'
           ), false
       ) AS healthy
FROM {schema}.pgqrs_workers w LEFT JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id
WHERE w.status <> 'stopped' AND ($1::text IS NULL OR q.queue_name = $1)
ORDER BY w.heartbeat_at NULLS FIRST, w.id

-- name: purgeable
-- What `reaping.workers` would remove. $1: how long ago they stopped at least; $2: one queue only; $3: whether foreign keys
-- hold those that messages refer to.
SELECT {worker_columns} FROM {schema}.pgqrs_workers w
WHERE w.status = 'stopped' AND coalesce(w.shutdown_at, w.heartbeat_at, w.started_at) < now() - $1::interval
  AND ($2::text IS NULL OR w.queue_id = (SELECT q.id FROM {schema}.pgqrs_queues q WHERE q.queue_name = $2))
  AND NOT EXISTS (SELECT FROM {schema}.pgqrs_workflow_runs r WHERE r.worker_id = w.id)
  AND (NOT $3::boolean
       OR NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.producer_worker_id = w.id)
          AND NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id))
ORDER BY w.id
