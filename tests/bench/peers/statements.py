"""The best SQL that we know for each step, as a careful user of bare asyncpg would write it.

It works on the untouched tables of upstream 0.15.3 and on ours alike: the worker's state is checked in the statement,
times are the server's, the order is that of the partial index.
"""

from __future__ import annotations

ENQUEUE_ONE = """
INSERT INTO pgqrs_messages (queue_id, payload, producer_worker_id) VALUES ($1, $2::text::jsonb, $3) RETURNING id
"""
#: As above, and wakes whoever listens.
ENQUEUE_ONE_AND_TELL = """
WITH sent AS (
    INSERT INTO pgqrs_messages (queue_id, payload, producer_worker_id) VALUES ($1, $2::text::jsonb, $3) RETURNING id
)
SELECT pg_notify('bench', ''), id FROM sent
"""
ENQUEUE_MANY = """
INSERT INTO pgqrs_messages (queue_id, payload, producer_worker_id)
SELECT $1, p::jsonb, $3 FROM unnest($2::text[]) p RETURNING id
"""
FILL = """
INSERT INTO pgqrs_messages (queue_id, payload, producer_worker_id)
SELECT $1, $2::text::jsonb, $3 FROM generate_series(1, $4::int)
"""
LEASE = """
UPDATE pgqrs_messages m
SET consumer_worker_id = $2, vt = now() + interval '30 seconds', read_ct = m.read_ct + 1, dequeued_at = now()
FROM (
    SELECT id FROM pgqrs_messages
    WHERE queue_id = $1 AND archived_at IS NULL AND vt <= now() AND read_ct < 5
      AND EXISTS (SELECT FROM pgqrs_workers w WHERE w.id = $2 AND w.status = 'ready')
    ORDER BY vt, enqueued_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
) s
WHERE m.id = s.id
RETURNING m.id, m.payload, m.read_ct, m.vt
"""
ARCHIVE = """
UPDATE pgqrs_messages SET archived_at = now()
WHERE id = ANY($1::bigint[]) AND consumer_worker_id = $2 AND archived_at IS NULL RETURNING id
"""
DELETE = """
DELETE FROM pgqrs_messages WHERE id = ANY($1::bigint[]) AND consumer_worker_id = $2 RETURNING id
"""
#: Archive what is done and lease the next in one round trip and one commit.
ARCHIVE_AND_LEASE = f"""
WITH done AS (
    UPDATE pgqrs_messages SET archived_at = now()
    WHERE id = ANY($4::bigint[]) AND consumer_worker_id = $2 AND archived_at IS NULL
)
{LEASE.strip()}
"""
DELETE_AND_LEASE = f"""
WITH done AS (DELETE FROM pgqrs_messages WHERE id = ANY($4::bigint[]) AND consumer_worker_id = $2)
{LEASE.strip()}
"""
BEAT = """
UPDATE pgqrs_workers w SET heartbeat_at = now()
FROM unnest($1::bigint[]) AS b (id) WHERE w.id = b.id RETURNING w.id, w.status
"""
REGISTER = """
INSERT INTO pgqrs_workers (name, queue_id)
SELECT 'bench-' || i || ':' || pg_backend_pid(), $1 FROM generate_series(1, $2::int) i RETURNING id
"""
#: A pod of this uid with so many containers, for the statement that beats for a pod.
REGISTER_POD = """
INSERT INTO pgqrs_workers (name, queue_id, pod_uid)
SELECT 'bench-' || i || ':' || pg_backend_pid(), $1, 'bench' FROM generate_series(1, $2::int) i
"""
