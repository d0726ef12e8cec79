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
-- Everything alive of these queues, under these names, or of these pods; who is how late by the server's own clock. When a heartbeat
-- came is said of the silent alone: of all others it changes all the time, and what is the same as before needs no second thought.
SELECT {lasting_worker_columns}, {leased}, w.owner, w.adopted, q.queue_name, late.silent, late.stale,
       CASE WHEN late.silent THEN w.heartbeat_at END AS heartbeat_at
FROM {schema}.pgqrs_workers w LEFT JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id,
    LATERAL (SELECT coalesce(q.heartbeat_timeout, interval '60 seconds') AS allowed) timeout,
    LATERAL (SELECT w.heartbeat_at < now() - allowed AS silent, w.heartbeat_at < now() - allowed / 2 AS stale) late
WHERE w.status <> 'stopped'
  AND (w.queue_id IN (SELECT d.id FROM {schema}.pgqrs_queues d WHERE d.queue_name = ANY($1::text[]))
       OR w.name = ANY($2::text[]) OR w.pod_uid = ANY($3::text[]))
ORDER BY w.id

-- name: message_counts
-- $1 names, $2 the most that is counted of each. `oldest_since`: since when the oldest ready message has been ready; one that
-- was released is as old as it was before. What somebody wrote by hand may be `-infinity`, which is no moment to show.
SELECT q.queue_name, ready.ready, later.delayed, later.leased, dead.dead,
       head.since AS oldest_since, now() - head.since AS oldest
FROM {schema}.pgqrs_queues q, {live_counts}, LATERAL (
    SELECT (
        SELECT CASE WHEN m.vt >= '1970-01-01 00:00Z'::timestamptz THEN least(greatest(m.vt, m.enqueued_at), now()) END
        FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = q.id AND m.archived_at IS NULL AND m.vt <= now()
        ORDER BY m.vt, m.enqueued_at, m.id
        LIMIT 1
    ) AS since
) head
WHERE q.queue_name = ANY($1::text[])

-- name: worker_counts
-- $1 names, $2 the most stopped workers that are counted of each: their rows are kept for years, those of the living are few.
SELECT q.queue_name, living.ready, living.suspended, over.stopped
FROM {schema}.pgqrs_queues q, LATERAL (
    SELECT count(*) FILTER (WHERE w.status IN ('ready', 'polling'))::int AS ready,
           count(*) FILTER (WHERE w.status IN ('suspended', 'interrupted'))::int AS suspended
    FROM {schema}.pgqrs_workers w
    WHERE w.queue_id = q.id AND w.status IN ('ready', 'polling', 'suspended', 'interrupted')
) living, LATERAL (
    SELECT count(*)::int AS stopped FROM (
        SELECT FROM {schema}.pgqrs_workers w WHERE w.queue_id = q.id AND w.status = 'stopped' LIMIT $2::int
    ) found
) over
WHERE q.queue_name = ANY($1::text[])

-- name: bring_back
-- Rows that somebody deleted by hand: $1 the ids that they had, $2 names, $3 the owners that `declare`, which says the rest,
-- expects to find. Messages name the id of their queue alone, so with another one nobody would find them again. Only an id
-- that was drawn before (whoever is given one next must not meet it) and that no row has; else `create` draws a new one.
INSERT INTO {schema}.pgqrs_queues (id, queue_name, owner)
SELECT former.id, former.queue_name, former.owner
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS former (id, queue_name, owner)
WHERE former.id BETWEEN 1 AND pg_sequence_last_value(pg_get_serial_sequence('{schema}.pgqrs_queues', 'id')::regclass)
ORDER BY former.queue_name
ON CONFLICT DO NOTHING

-- name: create
-- In the order of names, so that two that create the same queues do not wait for each other crosswise.
INSERT INTO {schema}.pgqrs_queues
    (queue_name, paused, lease_duration, read_limit, heartbeat_timeout, owner, archive_retention, dead_retention, worker_retention,
     backoff_first, backoff_factor, backoff_most, backoff_jitter, death_limit, dedup_window)
SELECT d.queue_name, d.paused, d.lease_duration, d.read_limit, d.heartbeat_timeout, d.owner, d.archived, d.dead, d.workers,
       d.first, d.factor, d.most, d.jitter, d.deaths, d.dedup_window
FROM unnest($1::text[], $2::boolean[], $3::interval[], $4::int[], $5::interval[], $6::text[], $7::interval[], $8::interval[],
            $9::interval[], $10::interval[], $11::float8[], $12::interval[], $13::float8[], $14::int[], $15::interval[])
    AS d (queue_name, paused, lease_duration, read_limit, heartbeat_timeout, owner, archived, dead, workers, first, factor, most,
          jitter, deaths, dedup_window)
ORDER BY d.queue_name
ON CONFLICT (queue_name) DO NOTHING
RETURNING queue_name, id

-- name: declare
-- Only where the owner still is who it was when this was decided: two that decide at once never take a row from each other.
-- What somebody else has locked is left to the next time, here and below: one row must not hold up the others, and two that
-- want the same rows never wait for each other. $17: whether the declaration says what is kept; else the row's own stays.
WITH declared AS MATERIALIZED (
    SELECT d.*
    FROM unnest($1::text[], $2::boolean[], $3::interval[], $4::int[], $5::interval[], $6::text[], $7::interval[],
                $8::interval[], $9::interval[], $10::interval[], $11::float8[], $12::interval[], $13::float8[], $14::int[],
                $15::interval[], $16::text[], $17::boolean[])
        AS d (queue_name, paused, lease_duration, read_limit, heartbeat_timeout, owner, archived, dead, workers, first, factor, most,
              jitter, deaths, dedup_window, previous_owner, retains)
), target AS MATERIALIZED (
    SELECT q.id FROM {schema}.pgqrs_queues q JOIN declared d ON d.queue_name = q.queue_name
    WHERE q.owner IS NOT DISTINCT FROM d.previous_owner
    FOR NO KEY UPDATE OF q SKIP LOCKED
)
UPDATE {schema}.pgqrs_queues q
SET paused = d.paused, lease_duration = d.lease_duration, read_limit = d.read_limit,
    heartbeat_timeout = d.heartbeat_timeout, owner = d.owner, backoff_first = d.first, backoff_factor = d.factor,
    backoff_most = d.most, backoff_jitter = d.jitter, death_limit = d.deaths, dedup_window = d.dedup_window,
    archive_retention = CASE WHEN d.retains THEN d.archived ELSE q.archive_retention END,
    dead_retention = CASE WHEN d.retains THEN d.dead ELSE q.dead_retention END,
    worker_retention = CASE WHEN d.retains THEN d.workers ELSE q.worker_retention END
FROM target, declared d
WHERE q.id = target.id AND q.queue_name = d.queue_name
RETURNING q.queue_name, q.id

-- name: disown
WITH given_up AS MATERIALIZED (
    SELECT d.* FROM unnest($1::text[], $2::text[]) AS d (queue_name, owner)
), target AS MATERIALIZED (
    SELECT q.id FROM {schema}.pgqrs_queues q JOIN given_up d ON d.queue_name = q.queue_name AND d.owner = q.owner
    FOR NO KEY UPDATE OF q SKIP LOCKED
)
UPDATE {schema}.pgqrs_queues q SET owner = NULL FROM target WHERE q.id = target.id

-- name: interrupt
-- $2: who holds these workers back, so that the same one lets them go again.
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w
    WHERE w.id = ANY($1::bigint[]) AND w.status IN ('ready', 'polling') AND NOT w.terminating
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {schema}.pgqrs_workers w SET status = 'interrupted', owner = d.owner
FROM target, unnest($1::bigint[], $2::text[]) AS d (id, owner)
WHERE w.id = target.id AND d.id = target.id
RETURNING w.id

-- name: lock
-- The same lock that a dequeue takes on its worker: while it is held, no message is handed to these workers.
SELECT w.id FROM {schema}.pgqrs_workers w WHERE w.id = ANY($1::bigint[]) FOR NO KEY UPDATE SKIP LOCKED

-- name: suspend
-- After `lock` in the same transaction, as a statement of its own, whose snapshot holds every lease that was given before.
UPDATE {schema}.pgqrs_workers w SET status = 'suspended'
WHERE w.id = ANY($1::bigint[]) AND w.status = 'interrupted' AND NOT w.terminating
  AND NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL)

-- name: resume
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w
    WHERE w.id = ANY($1::bigint[]) AND w.status <> 'stopped' AND NOT w.terminating
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {schema}.pgqrs_workers w
SET status = CASE WHEN w.status IN ('suspended', 'interrupted') THEN 'ready' ELSE w.status END, owner = NULL
FROM target WHERE w.id = target.id
RETURNING w.id

-- name: lock_live
SELECT w.id FROM {schema}.pgqrs_workers w
WHERE w.id = ANY($1::bigint[]) AND w.status <> 'stopped'
FOR UPDATE SKIP LOCKED

-- name: lock_silent
-- Those that still are silent; a heartbeat that came in the meantime, or comes at this moment, saves its worker.
SELECT w.id FROM {schema}.pgqrs_workers w
WHERE w.id = ANY($1::bigint[]) AND w.status <> 'stopped'
  AND w.heartbeat_at < now() - (
      SELECT q.heartbeat_timeout FROM {schema}.pgqrs_queues q WHERE q.id = w.queue_id
  )
FOR UPDATE SKIP LOCKED

-- name: lock_idle
-- Those that hold nothing and are given nothing any more.
SELECT w.id FROM {schema}.pgqrs_workers w
WHERE w.id = ANY($1::bigint[]) AND w.status IN ('interrupted', 'suspended')
  AND NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL)
FOR UPDATE SKIP LOCKED
