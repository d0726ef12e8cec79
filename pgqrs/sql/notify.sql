-- name: mark
-- $1: a worker that waits. While the mark stands, whoever sends to its queue also tells. Written at most once a second by a
-- process and not while enough of it is left; a row that somebody else changes at this moment is not waited for.
-- The queue's id comes back if the worker may be given messages; one that is paused need not be told.
WITH waiting AS MATERIALIZED (
    SELECT q.id, q.idle_until FROM {schema}.pgqrs_workers w JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id
    WHERE w.id = $1 AND w.status IN ('ready', 'polling') AND NOT q.paused
), free AS MATERIALIZED (
    SELECT q.id FROM {schema}.pgqrs_queues q JOIN waiting ON waiting.id = q.id
    WHERE coalesce(q.idle_until, '-infinity') < now() + interval '3 seconds'
    FOR NO KEY UPDATE OF q SKIP LOCKED
), marked AS (
    UPDATE {schema}.pgqrs_queues q SET idle_until = now() + interval '5 seconds' FROM free WHERE q.id = free.id
)
SELECT id FROM waiting

-- name: unmark
-- Somebody found work, so nobody needs to be told for the moment.
WITH free AS MATERIALIZED (
    SELECT q.id FROM {schema}.pgqrs_queues q WHERE q.id = $1 AND q.idle_until > now() FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {schema}.pgqrs_queues q SET idle_until = NULL FROM free WHERE q.id = free.id

-- name: tell
SELECT pg_notify($1, $2)

-- name: backend
-- Behind a pooler this is another number than the one that was told at the start of the connection. Also a ping.
SELECT pg_backend_pid()
