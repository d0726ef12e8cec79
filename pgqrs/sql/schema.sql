-- name: lock
-- Upstream's own migration lock, held to the end of the transaction: two installers, of whichever kind, never run at once.
-- The key is computed by the client, because PostgreSQL has no CRC-32.
SELECT pg_advisory_xact_lock($1)

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
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT now()
)

-- name: history
SELECT version, name, checksum FROM {schema}.pgqrs_schema_migrations ORDER BY version

-- name: record
INSERT INTO {schema}.pgqrs_schema_migrations (version, name, checksum) VALUES ($1, $2, $3)

-- name: record_upstream
INSERT INTO {schema}._sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, $2, true, $3, 0)

-- name: upstream_history
SELECT version, checksum FROM {schema}._sqlx_migrations WHERE success ORDER BY version
