-- name: holder
-- Who has this name. The lock makes two processes that register it wait for each other.
SELECT w.id, w.owner, w.status::text AS status, w.started_at, w.heartbeat_at + t.heartbeat_timeout AS free_at,
       w.status <> 'stopped' AND w.heartbeat_at + t.heartbeat_timeout > now() AS alive
FROM {schema}.pgqrs_workers w,
     LATERAL (SELECT coalesce((SELECT q.heartbeat_timeout FROM {schema}.pgqrs_queues q WHERE q.id = w.queue_id),
                              interval '60 seconds') AS heartbeat_timeout) t
WHERE w.name = $1
FOR UPDATE OF w

-- name: held_back_by
-- Who holds the newest row of this pod back, or nobody.
SELECT w.owner FROM {schema}.pgqrs_workers w WHERE w.pod_uid = $1 ORDER BY w.id DESC LIMIT 1

-- name: retire_name
-- The old row keeps its history under another name, so that the name can be given to a new row with a new id.
UPDATE {schema}.pgqrs_workers SET name = name || '#' || id WHERE id = $1

-- name: free_port
-- The smallest number that no worker of this host holds; a row that fell silent holds its number until it is stopped. Not
-- `NOT EXISTS`, which the planner may turn into a join that reads all workers.
SELECT n::int
FROM generate_series(1, 1 + (SELECT count(*) FROM {schema}.pgqrs_workers w WHERE w.hostname = $1 AND w.status <> 'stopped')) n
WHERE (SELECT w.id FROM {schema}.pgqrs_workers w WHERE w.name = $1 || ':' || n AND w.status <> 'stopped') IS NULL
ORDER BY n LIMIT 1

-- name: insert
-- $8: who holds this worker back, from before its process was restarted; it starts as it was left, suspended.
INSERT INTO {schema}.pgqrs_workers AS w
    (name, queue_id, pod_uid, pod_name, pod_namespace, cluster, container, owner, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8,
        CASE WHEN $8::text IS NULL THEN 'ready' ELSE 'suspended' END::{schema}.worker_status)
RETURNING {worker_columns}, 0 AS leased

-- name: get
SELECT {worker_columns}, {leased} FROM {schema}.pgqrs_workers w WHERE w.id = $1

-- name: list
SELECT {worker_columns}, {leased} FROM {schema}.pgqrs_workers w
WHERE $1::text IS NULL OR w.queue_id = (SELECT q.id FROM {schema}.pgqrs_queues q WHERE q.queue_name = $1)
ORDER BY w.id

-- name: count
SELECT count(*) FROM {schema}.pgqrs_workers

-- name: heartbeat
UPDATE {schema}.pgqrs_workers w SET heartbeat_at = now() WHERE w.id = $1 AND w.status <> 'stopped' RETURNING w.status::text

-- name: status
SELECT status::text FROM {schema}.pgqrs_workers WHERE id = $1

-- name: is_healthy
SELECT heartbeat_at >= now() - make_interval(secs => $2::float8) FROM {schema}.pgqrs_workers WHERE id = $1

-- name: lock
-- The same lock that a dequeue takes on its worker: while it is held, no message is handed to this worker.
SELECT status::text, terminating FROM {schema}.pgqrs_workers WHERE id = $1 FOR NO KEY UPDATE

-- name: held
SELECT count(*)::int FROM {schema}.pgqrs_messages WHERE consumer_worker_id = $1 AND archived_at IS NULL

-- name: set_status
-- Not a heartbeat: who suspends a dead worker from outside must not make it look alive.
UPDATE {schema}.pgqrs_workers
SET status = $2::text::{schema}.worker_status
WHERE id = $1

-- name: stop
-- Locked in the order of ids, so that two that stop the same workers do not wait for each other crosswise.
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w WHERE w.id = ANY($1::bigint[]) AND w.status <> 'stopped' ORDER BY w.id FOR UPDATE
)
UPDATE {schema}.pgqrs_workers w
SET status = 'stopped', shutdown_at = now(), stop_reason = $2
FROM target WHERE w.id = target.id

-- name: release_held
-- Runs after `stop` in the same transaction, as a statement of its own: its snapshot holds what a dequeue leased while
-- `stop` waited for the worker's lock. A released message goes to the head of the queue, it has waited long enough.
WITH held AS MATERIALIZED (
    SELECT m.id, m.consumer_worker_id FROM {schema}.pgqrs_messages m
    WHERE m.consumer_worker_id = ANY($1::bigint[]) AND m.archived_at IS NULL
    ORDER BY m.id FOR UPDATE
), freed AS (
    UPDATE {schema}.pgqrs_messages m SET consumer_worker_id = NULL, vt = least(m.enqueued_at, now())
    FROM held WHERE m.id = held.id
    RETURNING held.consumer_worker_id
)
SELECT consumer_worker_id AS id, count(*)::int AS released FROM freed GROUP BY consumer_worker_id

-- name: hold_anything
SELECT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = ANY($1::bigint[]) AND m.archived_at IS NULL)

-- name: release_held_by_dead
-- As `release_held` for workers whose processes died, each by itself: what they held is under suspicion from then on, and what
-- too many have died under is a dead letter. Who ended with its pod was ended, so that says nothing of its messages. A
-- dead letter keeps its last worker, so that what is learnt of that one's end can be written on it.
WITH held AS MATERIALIZED (
    SELECT m.id, m.consumer_worker_id, m.queue_id, m.deaths FROM {schema}.pgqrs_messages m
    WHERE m.consumer_worker_id = ANY($1::bigint[]) AND m.archived_at IS NULL
    ORDER BY m.id FOR UPDATE
), judged AS (
    SELECT held.id, held.consumer_worker_id, own.deaths, coalesce(own.deaths >= q.death_limit AND NOT w.terminating, false) AS dead,
           own.deaths || CASE WHEN own.deaths = 1 THEN ' process' ELSE ' processes' END || ' died while it held this, at last worker '
               || w.id || ' (' || w.name || '): ' || w.stop_reason AS reason
    FROM held JOIN {schema}.pgqrs_workers w ON w.id = held.consumer_worker_id
        LEFT JOIN {schema}.pgqrs_queues q ON q.id = held.queue_id,
        LATERAL (
            SELECT CASE WHEN w.terminating THEN held.deaths ELSE least(coalesce(held.deaths, 0) + 1, 32767) END::smallint AS deaths
        ) own
), freed AS (
    UPDATE {schema}.pgqrs_messages m
    SET deaths = judged.deaths,
        consumer_worker_id = CASE WHEN judged.dead THEN m.consumer_worker_id END,
        vt = CASE WHEN judged.dead THEN m.vt ELSE least(m.enqueued_at, now()) END,
        archived_at = CASE WHEN judged.dead THEN now() END,
        dead_reason = CASE WHEN judged.dead THEN judged.reason ELSE m.dead_reason END
    FROM judged WHERE m.id = judged.id
    RETURNING judged.consumer_worker_id
)
SELECT consumer_worker_id AS id, count(*)::int AS released FROM freed GROUP BY consumer_worker_id

-- name: explain_deaths
-- Of containers that ended ($1 uid of the pod, $2 name, $3 and $4 from when to when it ran, in seconds since 1970, $5 how it ended): writes that on the
-- workers that are only known to have died with it ($6), and on the dead letters that came of it, which died in the same
-- transaction. By the node's clock, hence the margin.
WITH ended AS (
    SELECT e.pod_uid, e.container, to_timestamp(e.began) AS began, to_timestamp(e.ended) AS ended, e.reason
    FROM unnest($1::text[], $2::text[], $3::float8[], $4::float8[], $5::text[]) AS e (pod_uid, container, began, ended, reason)
), explained AS (
    UPDATE {schema}.pgqrs_workers w SET stop_reason = $6::text || ': ' || ended.reason
    FROM ended
    WHERE w.pod_uid = ended.pod_uid AND w.container = ended.container AND w.status = 'stopped' AND w.stop_reason = $6::text
      AND w.shutdown_at BETWEEN ended.began - interval '5 seconds' AND ended.ended + interval '5 seconds'
    RETURNING w.id, w.queue_id, w.shutdown_at, ended.reason
)
UPDATE {schema}.pgqrs_messages m SET dead_reason = m.dead_reason || ': ' || explained.reason
FROM explained
WHERE m.queue_id = explained.queue_id AND m.archived_at = explained.shutdown_at AND m.dead_reason IS NOT NULL
  AND m.consumer_worker_id = explained.id AND m.deaths > 0

-- name: delete
DELETE FROM {schema}.pgqrs_workers WHERE id = $1 AND status = 'stopped' RETURNING id
