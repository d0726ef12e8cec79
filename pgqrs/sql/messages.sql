-- name: enqueue
-- Every payload becomes a row, in the given order; all times are the server's. The queue's row is locked as a foreign key
-- would lock it: whoever deletes the queue waits for us, or we find no queue and add nothing.
INSERT INTO {schema}.pgqrs_messages (queue_id, payload, vt, enqueued_at, read_ct, producer_worker_id)
SELECT q.id, p.payload::jsonb, now() + make_interval(secs => $3::float8), now(), 0, $4
FROM (SELECT id FROM {schema}.pgqrs_queues WHERE id = $1 FOR KEY SHARE) q,
     unnest($2::text[]) WITH ORDINALITY AS p (payload, position)
ORDER BY p.position
RETURNING id, {telling}

-- name: enqueue_one
-- As `enqueue` for a single message; $5 are its headers or NULL. There is nothing to order, which makes it cheaper by a tenth.
INSERT INTO {schema}.pgqrs_messages (queue_id, payload, vt, enqueued_at, read_ct, producer_worker_id, headers)
SELECT q.id, $2::text::jsonb, now() + make_interval(secs => $3::float8), now(), 0, $4, $5::text::jsonb
FROM {schema}.pgqrs_queues q WHERE q.id = $1 FOR KEY SHARE
RETURNING id, {telling}

-- name: enqueue_each
-- As `enqueue`, where each has a delay in seconds ($3), headers ($5) and a key ($6) of its own; headers and key may be NULL.
-- Where a live message has the key, or one that was archived within the queue's window, none is added, and the id of that one
-- comes back. The ids are drawn first, in the given order, and the rows written in the order of keys: two that send the same
-- keys wait for each other, but never crosswise.
-- `id` is NULL where somebody else's message of this key came or went while we ran: who asks again learns what became of it.
-- One that came and was archived while we ran is seen by nothing but `pgqrs_check_key`, which refuses the whole statement.
WITH new AS MATERIALIZED (
    SELECT nextval('{schema}.pgqrs_messages_id_seq') AS id, q.id AS queue_id, q.since, p.*, {key_holder} AS holder
    FROM ({keyed_queue}) q,
         unnest($2::text[], $3::float8[], $5::text[], $6::text[]) WITH ORDINALITY AS p (payload, delay, headers, key, position)
    ORDER BY p.position
), sent AS (
    INSERT INTO {schema}.pgqrs_messages
        (id, queue_id, payload, vt, enqueued_at, read_ct, producer_worker_id, headers, dedup_key)
    SELECT id, queue_id, payload::jsonb, now() + make_interval(secs => delay), now(), 0, $4, headers::jsonb, key
    FROM new
    WHERE holder IS NULL
    ORDER BY key NULLS FIRST, position
    {unless_taken}
)
SELECT {sent_or_holder} AS id,
       (SELECT pg_notify('pgqrs', '{schema} ' || q.id) FROM {schema}.pgqrs_queues q
        WHERE q.id = $1 AND q.idle_until > now() AND 0 >= ANY ($3::float8[]))
FROM new LEFT JOIN sent ON sent.id = new.id
ORDER BY new.position

-- name: enqueue_key
-- As `enqueue_each` for a single message with a key. For arrays of one the server makes a plan each time, which is half of the
-- time; this one it plans once.
WITH new AS MATERIALIZED (
    SELECT nextval('{schema}.pgqrs_messages_id_seq') AS id, q.id AS queue_id, q.since, p.key, {key_holder} AS holder
    FROM ({keyed_queue}) q, (SELECT $6::text AS key) p
), sent AS (
    INSERT INTO {schema}.pgqrs_messages
        (id, queue_id, payload, vt, enqueued_at, read_ct, producer_worker_id, headers, dedup_key)
    SELECT id, queue_id, $2::text::jsonb, now() + make_interval(secs => $3::float8), now(), 0, $4, $5::text::jsonb, key
    FROM new
    WHERE holder IS NULL
    {unless_taken}
)
SELECT {sent_or_holder} AS id, {telling}
FROM new LEFT JOIN sent ON sent.id = new.id

-- name: dequeue
-- For $1 to $4 see `leasing`.
WITH done AS (SELECT WHERE false), {leasing}
{lease_answer}

-- name: archive_and_dequeue
-- One round trip and one commit for a worker that goes on: archives those of $5 that it holds, and leases the next ones.
-- For $1 to $4 see `leasing`. Completing works in every state of the worker, leasing in some.
WITH {completing}, {archiving}, {leasing}
{lease_answer}

-- name: delete_and_dequeue
-- The same for messages that are not kept.
WITH {completing}, {deleting}, {leasing}
{lease_answer}

-- name: archive
-- Of the messages $2 those that the worker $1 holds; `fragments.held_target` says why. So with the four that follow.
{held_target}, {archiving}
{held_answer}

-- name: dead_letter
-- $3: why. Its lease ends with it.
{held_target}, done AS (
    UPDATE {schema}.pgqrs_messages m SET archived_at = now(), consumer_worker_id = NULL, dead_reason = $3
    FROM target WHERE m.id = target.id RETURNING m.id
)
{held_answer}

-- name: delete
{held_target}, {deleting}
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

-- name: renew
-- The leases of messages that are being handled begin anew; $3 as in `leasing`.
{held_target}, done AS (
    UPDATE {schema}.pgqrs_messages m
    SET vt = now() + coalesce(make_interval(secs => $3::float8), q.lease_duration)
    FROM target, {schema}.pgqrs_queues q WHERE m.id = target.id AND q.id = m.queue_id RETURNING m.id
)
{held_answer}, (
    SELECT extract(epoch FROM coalesce(make_interval(secs => $3::float8), q.lease_duration))::float8
    FROM {schema}.pgqrs_workers w JOIN {schema}.pgqrs_queues q ON q.id = w.queue_id WHERE w.id = $1
) AS lease_seconds

-- name: give_back
-- Messages that nobody began to handle.
{held_target}, {giving_back}
{held_answer}

-- name: give_back_others
-- The same for all that the worker $1 holds and does not know of, other than $2: the answer that told of them was lost.
WITH target AS MATERIALIZED (
    SELECT m.id FROM {schema}.pgqrs_messages m
    WHERE m.consumer_worker_id = $1 AND m.archived_at IS NULL AND m.id <> ALL ($2::bigint[])
    ORDER BY m.id FOR UPDATE
), {giving_back}
{held_answer}

-- name: fail
-- Of each of the messages $2: after how many seconds it is tried again ($3), infinity for never, NULL for the queue's own
-- back-off (as `Backoff.seconds` has it; an exponent is cut short before its power is too large), and why it failed ($4). What was
-- leased as often as the queue allows is not tried again either.
WITH target AS MATERIALIZED (
    SELECT m.id, failed.delay, failed.reason
    FROM {schema}.pgqrs_messages m
        JOIN unnest($2::bigint[], $3::float8[], $4::text[]) AS failed (id, delay, reason) ON failed.id = m.id
    WHERE m.id = ANY($2::bigint[]) AND (m.consumer_worker_id = $1 AND m.archived_at IS NULL) IS TRUE
    ORDER BY m.id FOR UPDATE OF m
), verdict AS (
    SELECT target.id, target.delay IS NOT DISTINCT FROM 'infinity' OR m.read_ct >= q.read_limit AS dead,
           coalesce(
               target.delay,
               least(
                   extract(epoch FROM own.backoff_first)::float8
                       * power(own.backoff_factor, least(m.read_ct - 1, 290 / nullif(log(own.backoff_factor), 0))),
                   extract(epoch FROM own.backoff_most)::float8
               ) * (1 - own.backoff_jitter * random())
           ) AS delay
    FROM target JOIN {schema}.pgqrs_messages m ON m.id = target.id JOIN {schema}.pgqrs_queues q ON q.id = m.queue_id,
        LATERAL (SELECT {backoff_columns}) own
), done AS (
    UPDATE {schema}.pgqrs_messages m
    SET consumer_worker_id = NULL,
        vt = CASE WHEN verdict.dead THEN m.vt ELSE now() + make_interval(secs => verdict.delay) END,
        archived_at = CASE WHEN verdict.dead THEN now() END,
        dead_reason = CASE
            WHEN target.delay = 'infinity' THEN target.reason
            WHEN verdict.dead THEN 'failed ' || m.read_ct || ' times, at last with ' || target.reason
            -- A letter that upstream replayed keeps its reason, or its key would come to life beside another one.
            ELSE m.dead_reason
        END
    FROM target, verdict WHERE m.id = target.id AND verdict.id = target.id
    RETURNING m.id, verdict.dead
)
{held_answer}, ARRAY(SELECT id FROM done WHERE dead) AS dead

-- name: count
SELECT count(*) FROM {schema}.pgqrs_messages
