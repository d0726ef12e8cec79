-- name: lock
-- Upstream's own migration lock, held to the end of the transaction: two installers, of whichever kind, never run at once.
-- The key is computed by the client, because PostgreSQL has no CRC-32.
SELECT pg_advisory_xact_lock($1)

-- name: limit_waiting
-- After `lock`: whoever waits for a table in use keeps everybody else from it meanwhile, so that must not take long.
SELECT set_config('lock_timeout', $1, true)

-- name: schema_exists
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)

-- name: tables
-- What is there, as names of tables and `TABLE.COLUMN` of those columns that tell upstream's generations apart.
SELECT c.relname::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND (c.relname LIKE 'pgqrs\_%' OR c.relname = '_sqlx_migrations')
UNION ALL
SELECT c.relname::text || '.' || a.attname::text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = 'pgqrs_workers' AND a.attnum > 0 AND NOT a.attisdropped

-- name: create_history
CREATE TABLE IF NOT EXISTS {schema}.pgqrs_schema_migrations (
    version integer NOT NULL,
    part text NOT NULL CHECK (part IN ('pre', 'post')),
    name text NOT NULL,
    checksum text NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (version, part)
)

-- name: history
SELECT version, part, name, checksum FROM {schema}.pgqrs_schema_migrations ORDER BY version, part DESC

-- name: record
INSERT INTO {schema}.pgqrs_schema_migrations (version, part, name, checksum) VALUES ($1, $2, $3, $4)

-- name: record_upstream
INSERT INTO {schema}._sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, $2, true, $3, 0)

-- name: upstream_history
SELECT version, success, checksum FROM {schema}._sqlx_migrations ORDER BY version

-- name: missing
-- What our statements and promises rely on, and somebody dropped by hand. $1 is the schema's name.
-- A migration that adds one adds it here; a test compares this list with the tables.
SELECT needed.kind || ' ' || needed.name AS name
FROM (
    SELECT 'column' AS kind, t.name || '.' || c.name AS name
    FROM (VALUES
        ('pgqrs_queues', ARRAY['id', 'queue_name', 'created_at', 'paused', 'lease_duration', 'read_limit',
                               'heartbeat_timeout', 'owner', 'idle_until', 'archive_retention', 'dead_retention',
                               'worker_retention', 'backoff_first', 'backoff_factor', 'backoff_most', 'backoff_jitter',
                               'death_limit', 'dedup_window']),
        ('pgqrs_workers', ARRAY['id', 'name', 'queue_id', 'started_at', 'heartbeat_at', 'shutdown_at', 'status', 'hostname',
                                'port', 'cluster', 'pod_namespace', 'pod_name', 'pod_uid', 'container', 'terminating',
                                'adopted', 'stop_reason', 'owner']),
        ('pgqrs_messages', ARRAY['id', 'queue_id', 'payload', 'vt', 'enqueued_at', 'read_ct', 'dequeued_at',
                                 'producer_worker_id', 'consumer_worker_id', 'archived_at', 'dead_reason', 'headers',
                                 'dedup_key', 'deaths'])
    ) AS t (name, columns), unnest(t.columns) AS c (name)
    UNION ALL
    SELECT 'index', unnest(ARRAY[
        'pgqrs_queues_pkey', 'pgqrs_queues_queue_name_key',
        'pgqrs_workers_pkey', 'pgqrs_workers_name_key', 'idx_pgqrs_workers_queue_status', 'pgqrs_workers_live_hostname',
        'pgqrs_workers_pod', 'pgqrs_workers_podless', 'pgqrs_workers_live_pod_name',
        'pgqrs_messages_pkey', 'idx_pgqrs_messages_hot_path', 'idx_pgqrs_messages_consumer_worker_id_active',
        'idx_pgqrs_messages_archived_at', 'pgqrs_messages_dead', 'pgqrs_messages_dead_since', 'pgqrs_messages_live_key',
        'pgqrs_messages_archived_key', 'pgqrs_messages_suspect'
    ])
    UNION ALL
    SELECT 'function', 'pgqrs_check_key'
    UNION ALL
    SELECT 'trigger', unnest(ARRAY['pgqrs_keep_messages_of_runs', 'pgqrs_find_message_of_run'])
) needed
WHERE (needed.kind, needed.name) NOT IN (
    SELECT 'column', r.relname || '.' || a.attname
    FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE n.nspname = $1 AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'index', r.relname
    FROM pg_index i JOIN pg_class r ON r.oid = i.indexrelid JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE n.nspname = $1 AND i.indisvalid
    UNION ALL
    SELECT 'function', f.proname FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace WHERE n.nspname = $1
    UNION ALL
    SELECT 'trigger', t.tgname
    FROM pg_trigger t JOIN pg_class r ON r.oid = t.tgrelid JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE n.nspname = $1
)
ORDER BY 1
