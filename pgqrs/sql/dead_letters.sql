-- name: list
-- $1 queue, $2 pattern of the reason, $3 dead since, $4 dead before, each of them NULL for any; $5 the last id of the page
-- before, $6 most letters.
SELECT m.id, m.queue_id, m.payload::text AS payload, m.headers::text AS headers, m.dedup_key, m.dead_reason,
       m.archived_at, m.enqueued_at, m.read_ct
FROM {schema}.pgqrs_messages m
WHERE {dead_matching}
ORDER BY m.id
LIMIT $6

-- name: replay
-- $1 ids. Those that are no dead letters (any more) are left alone. Tells who waits, as `messages.enqueue` does.
WITH target AS MATERIALIZED (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.id = ANY($1::bigint[]) AND m.dead_reason IS NOT NULL AND m.archived_at IS NOT NULL
    ORDER BY m.id FOR UPDATE
), back AS (
    UPDATE {schema}.pgqrs_messages m SET {replayed} WHERE m.id = {chosen} RETURNING m.id, m.queue_id
)
SELECT id, (
    SELECT pg_notify('pgqrs', '{schema} ' || q.id) FROM {schema}.pgqrs_queues q WHERE q.id = back.queue_id AND q.idle_until > now()
) FROM back

-- name: replay_matching
-- The arguments of `list`; a page of what matches. What another one is replaying at this moment is left to it.
WITH target AS MATERIALIZED (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE {dead_matching}
    ORDER BY m.id
    LIMIT $6
    FOR UPDATE SKIP LOCKED
), back AS (
    UPDATE {schema}.pgqrs_messages m SET {replayed} WHERE m.id = {chosen} RETURNING m.id, m.queue_id
)
SELECT id, (
    SELECT pg_notify('pgqrs', '{schema} ' || q.id) FROM {schema}.pgqrs_queues q WHERE q.id = back.queue_id AND q.idle_until > now()
) FROM back ORDER BY id
