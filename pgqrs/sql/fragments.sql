-- name: worker_columns
-- The columns of a worker as every statement here returns them.
w.id, w.name, w.hostname, w.port, w.queue_id, w.status::text AS status, w.started_at, w.heartbeat_at, w.shutdown_at,
w.pod_uid, w.pod_name, w.pod_namespace, w.cluster, w.container, w.terminating, w.stop_reason

-- name: leased
-- How many messages the worker `w` holds. Expired leases count, their handler may still run.
(SELECT count(*)::int FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL) AS leased

-- name: queue_columns
-- The columns of a queue as every statement here returns them.
q.id, q.queue_name, q.created_at, q.paused, q.lease_duration, q.read_limit, q.heartbeat_timeout, q.owner
