-- name: worker_columns
-- The columns of a worker as every statement here returns them.
{lasting_worker_columns}, w.heartbeat_at

-- name: lasting_worker_columns
-- Those that are not others every few seconds.
w.id, w.name, w.hostname, w.port, w.queue_id, w.status::text AS status, w.started_at, w.shutdown_at,
w.pod_uid, w.pod_name, w.pod_namespace, w.cluster, w.container, w.terminating, w.stop_reason

-- name: leased
-- How many messages the worker `w` holds. Expired leases count, their handler may still run.
(SELECT count(*)::int FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id AND m.archived_at IS NULL) AS leased

-- name: queue_columns
-- The columns of a queue as every statement here returns them.
q.id, q.queue_name, q.created_at, q.paused, q.lease_duration, q.read_limit, q.death_limit, q.heartbeat_timeout, q.dedup_window,
q.owner,
q.archive_retention, q.dead_retention, q.worker_retention,
{backoff_columns}

-- name: backoff_columns
-- Whatever somebody wrote into the row by hand is read as the nearest value that is allowed.
greatest(least(q.backoff_first, interval '36500 days'), interval '0') AS backoff_first,
greatest(least(q.backoff_factor, 1000000), 1) AS backoff_factor,
greatest(least(q.backoff_most, interval '36500 days'), interval '0') AS backoff_most,
greatest(least(q.backoff_jitter, 1), 0) AS backoff_jitter

-- name: telling
-- Tells consumers of the queue $1 that something without a delay ($3) was sent: once, and only where one waits
-- (`notify.mark`), because a COMMIT that notifies takes one lock for the whole server.
(
    SELECT pg_notify('pgqrs', '{schema} ' || q.id) FROM {schema}.pgqrs_queues q
    WHERE q.id = $1 AND q.idle_until > now() AND $3::float8 <= 0
)

-- name: keyed_queue
-- The queue $1, locked as `messages.enqueue` does, and since when a key that was archived is taken: NULL where it is not.
SELECT id, CASE WHEN dedup_window > '0' THEN now() - least(dedup_window, interval '36500 days') END AS since
FROM {schema}.pgqrs_queues WHERE id = $1 FOR KEY SHARE

-- name: key_holder
-- The message that was archived last with the key of `p`, if its queue `q` still keeps that key. The time is no condition: an
-- index in the order of time would look as good for that, and is full of others' messages.
CASE WHEN q.since IS NOT NULL AND p.key IS NOT NULL THEN (
    SELECT CASE WHEN m.archived_at > q.since THEN m.id END
    FROM {schema}.pgqrs_messages m
    WHERE m.queue_id = q.id AND m.dedup_key = p.key AND m.archived_at IS NOT NULL AND m.dead_reason IS NULL
    ORDER BY m.archived_at DESC
    LIMIT 1
) END

-- name: unless_taken
-- How messages `new` that may have keys are added, each with a second look for those keys that stay taken.
ON CONFLICT (queue_id, dedup_key) WHERE archived_at IS NULL AND dead_reason IS NULL AND dedup_key IS NOT NULL DO NOTHING
RETURNING coalesce({schema}.pgqrs_check_key(id, queue_id, dedup_key, (SELECT since FROM new LIMIT 1)), id) AS id

-- name: sent_or_holder
-- The id of a message of `new` that was `sent`, or else of that which has its key.
coalesce(sent.id, (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.queue_id = new.queue_id AND m.dedup_key = new.key AND m.archived_at IS NULL AND m.dead_reason IS NULL
), new.holder)

-- name: held_target
-- $1 worker, $2 ids: those that this worker holds, because only the holder of the lease may do anything with them. Locked
-- in the order of ids, so that two that finish the same messages do not wait for each other crosswise. `IS TRUE` keeps other
-- indexes than the key out of it: that of what a worker holds is full of traces of what it held before.
WITH target AS MATERIALIZED (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.id = ANY($2::bigint[]) AND (m.consumer_worker_id = $1 AND m.archived_at IS NULL) IS TRUE
    ORDER BY m.id FOR UPDATE
)

-- name: held_answer
-- The ids that `done` changed, and the worker's state, so that a replaced process learns it.
SELECT (SELECT w.status::text FROM {schema}.pgqrs_workers w WHERE w.id = $1) AS worker_status,
       ARRAY(SELECT id FROM done) AS ids

-- name: completing
-- `held_target` for a statement that also leases.
target AS MATERIALIZED (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.id = ANY($5::bigint[]) AND (m.consumer_worker_id = $1 AND m.archived_at IS NULL) IS TRUE
    ORDER BY m.id FOR UPDATE
)

-- name: archiving
-- A reason that upstream left behind when it replayed a dead letter would make this one look dead again.
done AS (
    UPDATE {schema}.pgqrs_messages m SET archived_at = now(), dead_reason = NULL FROM target WHERE m.id = target.id RETURNING m.id
)

-- name: deleting
done AS (
    DELETE FROM {schema}.pgqrs_messages m USING target WHERE m.id = target.id RETURNING m.id
)

-- name: giving_back
-- To the head of the queue, and it does not count that they were leased.
done AS (
    UPDATE {schema}.pgqrs_messages m
    SET consumer_worker_id = NULL, read_ct = greatest(m.read_ct - 1, 0), vt = least(m.enqueued_at, now())
    FROM target WHERE m.id = target.id RETURNING m.id
)

-- name: leasing
-- $1 worker, $2 most messages, $3 lease in seconds or NULL for the queue's own, $4 where in the order of `vt` to begin, or
-- NULL for its head: where an old snapshot keeps the traces of what was leased before from being cleaned away, they are
-- skipped with it.
-- `worker` is locked before anything is chosen: who suspends or stops it waits for us, or we see that it is not ready.
-- `candidate` is materialized, or the planner may run the locking select more than once. Its order is that of the partial
-- index, so that a backlog of a million costs what an empty queue costs. What was leased too often goes to the dead letters.
-- What one more death would make a dead letter (`suspect`) is handed to a worker one at a time: those
-- that died together are apart then, and none is given up for another one's fault. After fewer deaths all are handed out as ever.
worker AS MATERIALIZED (
    SELECT w.id, w.queue_id, w.heartbeat_at, q.read_limit, q.death_limit - 1 AS last_chance,
           coalesce(make_interval(secs => $3::float8), q.lease_duration) AS lease
    FROM {schema}.pgqrs_workers w JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id
    WHERE w.id = $1 AND w.status IN ('ready', 'polling') AND NOT q.paused
    FOR NO KEY UPDATE OF w
), beat AS (
    UPDATE {schema}.pgqrs_workers w SET heartbeat_at = now()
    FROM worker WHERE w.id = worker.id AND worker.heartbeat_at < now() - interval '1 second'
), suspect AS MATERIALIZED (
    SELECT m.id, m.vt, m.read_ct
    FROM {schema}.pgqrs_messages m
    WHERE m.queue_id = (SELECT queue_id FROM worker) AND m.archived_at IS NULL AND m.deaths > 0
      AND m.deaths >= (SELECT last_chance FROM worker) AND m.vt <= now()
      AND NOT EXISTS (
          SELECT FROM {schema}.pgqrs_messages held
          WHERE held.queue_id = m.queue_id AND held.archived_at IS NULL AND held.deaths > 0
            AND held.deaths >= (SELECT last_chance FROM worker) AND held.consumer_worker_id = $1 AND held.vt > now()
      )
    ORDER BY m.deaths, m.vt, m.enqueued_at, m.id
    LIMIT 1
    FOR UPDATE OF m SKIP LOCKED
), trusted AS MATERIALIZED (
    SELECT m.id, m.vt, m.read_ct
    FROM {schema}.pgqrs_messages m
    WHERE m.queue_id = (SELECT queue_id FROM worker) AND m.archived_at IS NULL
      AND (m.deaths IS NULL OR m.deaths < (SELECT last_chance FROM worker))
      AND m.vt >= coalesce($4::timestamptz, '-infinity') AND m.vt <= now()
    ORDER BY m.vt, m.enqueued_at, m.id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), candidate AS MATERIALIZED (
    -- One of those may be one too many: a limit that depends on the suspect would make the planner expect thousands of rows.
    SELECT * FROM suspect UNION ALL SELECT * FROM trusted LIMIT $2
), dead AS (
    UPDATE {schema}.pgqrs_messages m
    SET archived_at = now(), consumer_worker_id = NULL,
        dead_reason = 'leased ' || m.read_ct || ' times, the limit is ' || worker.read_limit
    FROM candidate, worker
    WHERE m.id = candidate.id AND candidate.read_ct >= (SELECT read_limit FROM worker)
    RETURNING m.id
), leased AS (
    UPDATE {schema}.pgqrs_messages m
    SET consumer_worker_id = worker.id, vt = now() + worker.lease, read_ct = m.read_ct + 1,
        dequeued_at = coalesce(m.dequeued_at, now())
    FROM candidate, worker
    WHERE m.id = candidate.id AND candidate.read_ct < (SELECT read_limit FROM worker)
    RETURNING m.id, m.payload::text AS payload, m.headers::text AS headers, m.dedup_key, m.enqueued_at, m.read_ct,
              candidate.vt AS visible_since
)

-- name: lease_answer
-- First a row that tells of the worker: its state, so that a replaced process learns it; how many of the messages that were
-- to be completed were; how many dead letters were met, which are no reason to believe that there is nothing to do; until
-- when, and for how many seconds, everything is leased. Then a row for each message.
SELECT w.status::text AS worker_status, w.queue_id, (SELECT count(*) FROM done)::int AS done,
       (SELECT count(*) FROM dead)::int AS dead, now() + worker.lease AS vt,
       extract(epoch FROM worker.lease)::float8 AS lease_seconds,
       NULL::bigint AS id, NULL AS payload, NULL AS headers, NULL::text AS dedup_key, NULL::timestamptz AS enqueued_at,
       NULL::int AS read_ct, NULL::timestamptz AS visible_since
FROM {schema}.pgqrs_workers w LEFT JOIN worker ON true
WHERE w.id = $1
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL,
       l.id, l.payload, l.headers, l.dedup_key, l.enqueued_at, l.read_ct, l.visible_since
FROM leased l
ORDER BY visible_since NULLS FIRST, enqueued_at, id

-- name: chosen
-- The ids of `target` as an array: for a join the planner may read the whole table, for an array it goes by the primary key.
ANY (ARRAY(SELECT target.id FROM target))

-- name: unreferenced
-- No run of an upstream workflow refers to the message `m`: those rows would hold it, and refuse to let it go.
NOT EXISTS (SELECT FROM {schema}.pgqrs_workflow_runs r WHERE r.message_id = m.id)

-- name: dead_matching
-- A dead letter `m` of the queue $1 that matches what `dead_letters.list` is told. A letter that upstream replayed keeps
-- its reason and is live.
m.queue_id = (SELECT d.id FROM {schema}.pgqrs_queues d WHERE d.queue_name = $1)
    AND m.dead_reason IS NOT NULL AND m.archived_at IS NOT NULL AND m.id > $5::bigint
    AND ($2::text IS NULL OR m.dead_reason LIKE $2)
    AND ($3::timestamptz IS NULL OR m.archived_at >= $3) AND ($4::timestamptz IS NULL OR m.archived_at < $4)

-- name: replayed
-- What becomes of a dead letter that is sent again. It gives up its key, which a live message may have by now.
archived_at = NULL, dead_reason = NULL, read_ct = 0, deaths = NULL, vt = now(), dequeued_at = NULL, consumer_worker_id = NULL,
    dedup_key = NULL

-- name: live_counts
-- The live messages of the queue `q`, and its dead letters, each counted up to $2, so that a count costs the same however
-- many there are. What is not ready yet is looked through in the order of `vt` and split: where it is cut short, both
-- numbers are too small.
LATERAL (
    SELECT count(*)::int AS ready FROM (
        SELECT FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = q.id AND m.archived_at IS NULL AND m.vt <= now() ORDER BY m.vt LIMIT $2::int
    ) found
) ready, LATERAL (
    SELECT count(*) FILTER (WHERE found.consumer_worker_id IS NULL)::int AS delayed,
           count(*) FILTER (WHERE found.consumer_worker_id IS NOT NULL)::int AS leased
    FROM (
        SELECT m.consumer_worker_id FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = q.id AND m.archived_at IS NULL AND m.vt > now() ORDER BY m.vt LIMIT $2::int
    ) found
) later, LATERAL (
    SELECT count(*)::int AS dead FROM (
        SELECT FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = q.id AND m.dead_reason IS NOT NULL AND m.archived_at IS NOT NULL
        ORDER BY m.archived_at LIMIT $2::int
    ) found
) dead
