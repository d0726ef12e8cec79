-- name: enqueue
-- Every payload becomes a row, in the given order; all times are the server's. The queue's row is locked as a foreign key
-- would lock it: whoever deletes the queue waits for us, or we find no queue and add nothing.
INSERT INTO {schema}.pgqrs_messages (queue_id, payload, vt, enqueued_at, read_ct, producer_worker_id)
SELECT q.id, p.payload::jsonb, now() + make_interval(secs => $3::float8), now(), 0, $4
FROM (SELECT id FROM {schema}.pgqrs_queues WHERE id = $1 FOR KEY SHARE) q,
     unnest($2::text[]) WITH ORDINALITY AS p (payload, position)
ORDER BY p.position
-- Tells once, and only where a consumer waits (`notify.mark`): a COMMIT that notifies takes one lock for the whole server.
RETURNING id, (
    SELECT pg_notify('pgqrs', '{schema} ' || q.id) FROM {schema}.pgqrs_queues q
    WHERE q.id = $1 AND q.idle_until > now() AND $3::float8 <= 0
)

-- name: enqueue_keyed
-- As `enqueue`, with headers $5 on each and keys $6, NULL where a message has none. A key that a live message has adds
-- nothing, and the id of that one comes back. The ids are drawn first, in the given order, and the rows written in the
-- order of keys: two that send the same keys wait for each other, but never crosswise.
-- `id` is NULL where somebody else's message of this key came or went while we ran: who asks again learns what became of it.
WITH new AS MATERIALIZED (
    SELECT nextval('{schema}.pgqrs_messages_id_seq') AS id, q.id AS queue_id, p.payload, p.key, p.position
    FROM (SELECT id FROM {schema}.pgqrs_queues WHERE id = $1 FOR KEY SHARE) q,
         unnest($2::text[], $6::text[]) WITH ORDINALITY AS p (payload, key, position)
    ORDER BY p.position
), sent AS (
    INSERT INTO {schema}.pgqrs_messages
        (id, queue_id, payload, vt, enqueued_at, read_ct, producer_worker_id, headers, dedup_key)
    SELECT id, queue_id, payload::jsonb, now() + make_interval(secs => $3::float8), now(), 0, $4, $5::jsonb, key
    FROM new
    ORDER BY key NULLS FIRST, position
    ON CONFLICT (queue_id, dedup_key) WHERE archived_at IS NULL AND dedup_key IS NOT NULL DO NOTHING
    RETURNING id
)
SELECT coalesce(sent.id, (
           SELECT m.id FROM {schema}.pgqrs_messages m
           WHERE m.queue_id = new.queue_id AND m.dedup_key = new.key AND m.archived_at IS NULL
       )) AS id,
       (SELECT pg_notify('pgqrs', '{schema} ' || q.id) FROM {schema}.pgqrs_queues q
        WHERE q.id = $1 AND q.idle_until > now() AND $3::float8 <= 0)
FROM new LEFT JOIN sent ON sent.id = new.id
ORDER BY new.position

-- name: dequeue
-- $1 worker, $2 most messages, $3 lease in seconds or NULL for the queue's own.
-- `worker` is locked before anything is chosen: who suspends or stops it waits for us, or we see that it is not ready.
-- `candidate` is materialized, or the planner may run the locking select more than once. Its order is that of the partial
-- index, so that a backlog of a million costs what an empty queue costs. What was leased too often goes to the dead letters.
WITH worker AS MATERIALIZED (
    SELECT w.id, w.queue_id, w.heartbeat_at, q.read_limit,
           coalesce(make_interval(secs => $3::float8), q.lease_duration) AS lease
    FROM {schema}.pgqrs_workers w JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id
    WHERE w.id = $1 AND w.status IN ('ready', 'polling') AND NOT q.paused
    FOR NO KEY UPDATE OF w
), beat AS (
    UPDATE {schema}.pgqrs_workers w SET heartbeat_at = now()
    FROM worker WHERE w.id = worker.id AND worker.heartbeat_at < now() - interval '1 second'
), candidate AS MATERIALIZED (
    SELECT m.id, m.vt, m.enqueued_at, m.read_ct
    FROM {schema}.pgqrs_messages m
    WHERE m.queue_id = (SELECT queue_id FROM worker) AND m.archived_at IS NULL AND m.vt <= now()
    ORDER BY m.vt, m.enqueued_at, m.id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), dead AS (
    UPDATE {schema}.pgqrs_messages m
    SET archived_at = now(), consumer_worker_id = NULL,
        dead_reason = 'leased ' || m.read_ct || ' times, the limit is ' || worker.read_limit
    FROM candidate, worker WHERE m.id = candidate.id AND candidate.read_ct >= worker.read_limit
), leased AS (
    UPDATE {schema}.pgqrs_messages m
    SET consumer_worker_id = worker.id, vt = now() + worker.lease, read_ct = m.read_ct + 1,
        dequeued_at = coalesce(m.dequeued_at, now())
    FROM candidate, worker WHERE m.id = candidate.id AND candidate.read_ct < worker.read_limit
    RETURNING m.id, m.queue_id, m.payload::text AS payload, m.headers::text AS headers, m.dedup_key, m.enqueued_at, m.vt, m.read_ct, m.consumer_worker_id,
              candidate.vt AS visible_since
)
SELECT w.status::text AS worker_status, l.*
FROM {schema}.pgqrs_workers w LEFT JOIN leased l ON true
WHERE w.id = $1
ORDER BY l.visible_since, l.enqueued_at, l.id

-- name: archive
-- Of the messages $2 those that the worker $1 holds; `fragments.held_target` says why. So with the four that follow.
{held_target}, done AS (
    -- A reason that upstream left behind when it replayed a dead letter would make this one look dead again.
    UPDATE {schema}.pgqrs_messages m SET archived_at = now(), dead_reason = NULL FROM target WHERE m.id = target.id RETURNING m.id
)
{held_answer}

-- name: dead_letter
-- $3: why. Its lease ends with it.
{held_target}, done AS (
    UPDATE {schema}.pgqrs_messages m SET archived_at = now(), consumer_worker_id = NULL, dead_reason = $3
    FROM target WHERE m.id = target.id RETURNING m.id
)
{held_answer}

-- name: delete
{held_target}, done AS (
    DELETE FROM {schema}.pgqrs_messages m USING target WHERE m.id = target.id RETURNING m.id
)
{held_answer}

-- name: release
-- $3: seconds until it is visible again; without a delay it goes back to the head of the queue.
{held_target}, done AS (
    UPDATE {schema}.pgqrs_messages m
    SET consumer_worker_id = NULL,
        vt = CASE WHEN $3::float8 > 0 THEN now() + make_interval(secs => $3::float8) ELSE least(m.enqueued_at, now()) END
    FROM target WHERE m.id = target.id RETURNING m.id
)
{held_answer}

-- name: extend
{held_target}, done AS (
    UPDATE {schema}.pgqrs_messages m SET vt = greatest(m.vt, now()) + make_interval(secs => $3::float8)
    FROM target WHERE m.id = target.id RETURNING m.id
)
{held_answer}

-- name: count
SELECT count(*) FROM {schema}.pgqrs_messages
