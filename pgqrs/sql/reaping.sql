-- In each: $1 names of queues, or NULL for all. What somebody else is changing at this moment is left to the next time.

-- name: archived
-- $2 the age from which on archived messages go, or NULL for each queue's own (where that is NULL too, none goes), $3 most
-- messages. A queue's own age is never less than its window, in which they hold their keys: an age for those with a key alone
-- would look through all that are kept for their keys, each time, to find those without.
WITH target AS MATERIALIZED (
    SELECT old.id
    FROM {schema}.pgqrs_queues q, LATERAL (
        SELECT m.id FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = q.id AND m.dead_reason IS NULL AND {unreferenced}
          AND m.archived_at < now() - coalesce($2::interval, CASE WHEN q.archive_retention IS NOT NULL THEN
              greatest(q.archive_retention, least(q.dedup_window, interval '36500 days'))
          END)
        ORDER BY m.archived_at
        LIMIT $3
        FOR UPDATE OF m SKIP LOCKED
    ) old
    WHERE $1::text[] IS NULL OR q.queue_name = ANY($1::text[])
    LIMIT $3
)
DELETE FROM {schema}.pgqrs_messages m WHERE m.id = {chosen} RETURNING m.id

-- name: dead
-- The same of dead letters.
WITH target AS MATERIALIZED (
    SELECT old.id
    FROM {schema}.pgqrs_queues q, LATERAL (
        SELECT m.id FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = q.id AND m.archived_at < now() - coalesce($2::interval, q.dead_retention)
          AND m.dead_reason IS NOT NULL AND {unreferenced}
        ORDER BY m.archived_at
        LIMIT $3
        FOR UPDATE OF m SKIP LOCKED
    ) old
    WHERE $1::text[] IS NULL OR q.queue_name = ANY($1::text[])
    LIMIT $3
)
DELETE FROM {schema}.pgqrs_messages m WHERE m.id = {chosen} RETURNING m.id

-- name: workers
-- $2 how long ago they stopped, or NULL for their queue's own; $3 most workers. Those that once touched messages go too,
-- unless $4 says that foreign keys forbid it; those that a run of an upstream workflow refers to stay.
WITH target AS MATERIALIZED (
    SELECT w.id FROM {schema}.pgqrs_workers w LEFT JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id
    WHERE w.status = 'stopped' AND ($1::text[] IS NULL OR q.queue_name = ANY($1::text[]))
      AND coalesce(w.shutdown_at, w.heartbeat_at, w.started_at) < now() - coalesce($2::interval, q.worker_retention)
      AND NOT EXISTS (SELECT FROM {schema}.pgqrs_workflow_runs r WHERE r.worker_id = w.id)
      AND (NOT $4::boolean
           OR NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.producer_worker_id = w.id)
              AND NOT EXISTS (SELECT FROM {schema}.pgqrs_messages m WHERE m.consumer_worker_id = w.id))
    ORDER BY w.id
    LIMIT $3
    FOR UPDATE OF w SKIP LOCKED
)
DELETE FROM {schema}.pgqrs_workers w USING target WHERE w.id = target.id RETURNING w.id

-- name: messages_refer_to_workers
-- Upstream's foreign keys, which the post part removes. $1 is the schema's name.
SELECT EXISTS (
    SELECT FROM pg_constraint c
        JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
        JOIN pg_class t ON t.oid = c.confrelid AND t.relnamespace = n.oid
    WHERE c.contype = 'f' AND n.nspname = $1 AND r.relname = 'pgqrs_messages' AND t.relname = 'pgqrs_workers'
)

-- name: lock_silent
-- $2 most workers. Whose last heartbeat is older than the queue's heartbeat timeout, by the server's clock; one that beats
-- at this moment holds its row, and lives.
SELECT w.id FROM {schema}.pgqrs_workers w LEFT JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id
WHERE w.status <> 'stopped' AND ($1::text[] IS NULL OR q.queue_name = ANY($1::text[]))
  AND w.heartbeat_at < now() - coalesce(q.heartbeat_timeout, interval '60 seconds')
ORDER BY w.id
LIMIT $2
FOR NO KEY UPDATE OF w SKIP LOCKED

-- name: exhausted
-- $2 most messages. What is visible at the read limit: nobody may be handed these any more, so they are dead, and need not
-- wait for the next dequeue to be seen so. `held` is materialized, and knows neither queue nor time, to be found by the
-- small index of what is leased: the planner would rather look through the whole backlog. What was released is in no index
-- of its own; it goes to the head of its queue, so the head is looked at.
WITH held AS MATERIALIZED (
    SELECT m.id, m.queue_id, m.vt, m.read_ct FROM {schema}.pgqrs_messages m
    WHERE m.consumer_worker_id IS NOT NULL AND m.archived_at IS NULL
), released AS MATERIALIZED (
    SELECT head.id
    FROM {schema}.pgqrs_queues q, LATERAL (
        SELECT m.id, m.read_ct FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = q.id AND m.archived_at IS NULL AND m.vt <= now()
        ORDER BY m.vt, m.enqueued_at, m.id
        LIMIT 100
    ) head
    WHERE head.read_ct >= q.read_limit AND ($1::text[] IS NULL OR q.queue_name = ANY($1::text[]))
), due AS MATERIALIZED (
    SELECT held.id FROM held JOIN {schema}.pgqrs_queues q ON q.id = held.queue_id
    WHERE held.vt <= now() AND held.read_ct >= q.read_limit AND ($1::text[] IS NULL OR q.queue_name = ANY($1::text[]))
    UNION ALL
    SELECT released.id FROM released
    LIMIT $2
), target AS MATERIALIZED (
    -- Locked, each is looked at again: it may be leased, or done, by now. `IS TRUE` keeps other indexes than the key out of it.
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.id = ANY (ARRAY(SELECT due.id FROM due))
      AND (m.archived_at IS NULL AND m.vt <= now()) IS TRUE
      AND m.read_ct >= (SELECT q.read_limit FROM {schema}.pgqrs_queues q WHERE q.id = m.queue_id)
    ORDER BY m.id
    FOR UPDATE SKIP LOCKED
)
UPDATE {schema}.pgqrs_messages m
SET archived_at = now(), consumer_worker_id = NULL,
    dead_reason = 'leased ' || m.read_ct || ' times, the limit is ' || (
        SELECT q.read_limit FROM {schema}.pgqrs_queues q WHERE q.id = m.queue_id
    )
WHERE m.id = {chosen}
RETURNING m.id
