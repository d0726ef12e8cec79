-- name: beat
-- One statement per interval for everything of a pod; what it returns is how a change from outside reaches the pod: only what
-- changes, because this is the most frequent statement of all.
-- Locked in the order of ids, as by everybody, against deadlocks. What was locked is told as it was then and not as the
-- snapshot has it: whoever held the lock before us may have changed it.
WITH target AS MATERIALIZED (
    SELECT w.id, w.status, w.heartbeat_at FROM {schema}.pgqrs_workers w
    WHERE w.pod_uid = $1 AND w.status <> 'stopped' AND w.id <> ALL($2::bigint[])
    ORDER BY w.id FOR NO KEY UPDATE
), beaten AS (
    UPDATE {schema}.pgqrs_workers w SET heartbeat_at = now() FROM target WHERE w.id = target.id
)
SELECT w.id, w.status::text AS status, w.heartbeat_at, {leased}
FROM (
    SELECT target.id, target.status, target.heartbeat_at FROM target
    UNION ALL
    SELECT silent.id, silent.status, silent.heartbeat_at FROM {schema}.pgqrs_workers silent
    WHERE silent.pod_uid = $1 AND silent.status <> 'stopped' AND silent.id = ANY($2::bigint[])
) w
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

-- name: adopt
-- Takes over the rows that processes of this pod registered without knowing of pods, as upstream's clients do.
-- $1 uid, $2 name, $3 namespace, $4 cluster of the pod; $5 all host names that may be this pod's, $6 that of them which nobody
-- else can have; $7 the host name that upstream's clients put `-` and a uuid behind; $8 for how many seconds the pod has been
-- here at least.
-- Whatever was registered before the pod's own first row is not the pod's. Ids tell, but who comes back under a stopped
-- worker's name gets that one's id again. Where another pod of this name shares the database, only $6 tells whose it is.
-- A name that the app chose is given back at once, or the app could not register again after it crashed.
-- Names are compared by bytes, so that the range is one of the index.
WITH named AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w
    WHERE w.pod_uid IS NULL AND w.status <> 'stopped' AND w.hostname COLLATE "C" = ANY($5::text[])
    UNION ALL
    SELECT w.id FROM {schema}.pgqrs_workers w
    WHERE w.pod_uid IS NULL AND w.status <> 'stopped'
      AND w.hostname COLLATE "C" > $7::text || '-' AND w.hostname COLLATE "C" < $7::text || '.'
      AND substr(w.hostname, length($7::text) + 1)
          ~ '^-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
), candidate AS MATERIALIZED (
    -- `IS TRUE` keeps other indexes than the key out of it.
    SELECT w.id, w.hostname = ANY($5::text[]) AS chosen,
           w.hostname <> $6::text AND EXISTS (
               SELECT FROM {schema}.pgqrs_workers other
               WHERE other.pod_name = $2::text AND other.pod_uid IS NOT NULL AND other.status <> 'stopped'
                 AND (other.pod_namespace, other.cluster) IS DISTINCT FROM ($3::text, $4::text)
                 AND (w.hostname <> $2::text || '.' || $3::text OR other.pod_namespace = $3::text)
           ) AS ambiguous
    FROM {schema}.pgqrs_workers w
    WHERE w.id = ANY (ARRAY(SELECT named.id FROM named)) AND (w.pod_uid IS NULL AND w.status <> 'stopped') IS TRUE
      AND (w.id > (SELECT first.id FROM {schema}.pgqrs_workers first WHERE first.pod_uid = $1 ORDER BY first.id LIMIT 1)
           OR w.started_at >= least(
               (SELECT first.started_at FROM {schema}.pgqrs_workers first WHERE first.pod_uid = $1 ORDER BY first.id LIMIT 1),
               now() - make_interval(secs => $8::float8)
           ))
    ORDER BY w.id FOR NO KEY UPDATE
), taken AS (
    UPDATE {schema}.pgqrs_workers w
    SET pod_uid = $1, pod_name = $2, pod_namespace = $3, cluster = $4, adopted = true, heartbeat_at = now(),
        name = CASE WHEN candidate.chosen THEN w.name || '#' || w.id ELSE w.name END
    FROM candidate WHERE w.id = candidate.id AND NOT candidate.ambiguous
    RETURNING w.id
)
SELECT w.id, false AS ambiguous FROM {schema}.pgqrs_workers w WHERE w.pod_uid = $1 AND w.adopted AND w.status <> 'stopped'
UNION ALL
SELECT taken.id, false FROM taken
UNION ALL
SELECT candidate.id, true FROM candidate WHERE candidate.ambiguous
