-- name: existing
-- Those of these roles that are there, and whether each is a group as ours are.
SELECT rolname::text AS name, NOT (rolcanlogin OR rolsuper) AS is_group FROM pg_roles WHERE rolname = ANY($1::text[])

-- name: create
-- Roles belong to the whole server: an installer of another database may make the same one at this moment.
DO $$
BEGIN
    CREATE ROLE {role} NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$

-- name: is_member
SELECT pg_has_role($1::name, 'MEMBER')

-- name: join
-- Only who is a member of the owner may give it the tables. It made the role, so it may.
GRANT {owner} TO CURRENT_USER

-- name: create_record
-- Which roles were asked for, so that later installations grant them what is new.
CREATE TABLE IF NOT EXISTS {schema}.pgqrs_schema_roles (prefix text PRIMARY KEY)

-- name: record
INSERT INTO {schema}.pgqrs_schema_roles (prefix) VALUES ($1) ON CONFLICT DO NOTHING

-- name: recorded
SELECT prefix FROM {schema}.pgqrs_schema_roles

-- name: record_exists
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = 'pgqrs_schema_roles'
)

-- name: grant
-- First all is taken away, so that nothing granted by hand stays. Columns are named one by one: a migration that adds one
-- decides here who needs it.
GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner};
GRANT USAGE ON SCHEMA {schema} TO {producer}, {consumer}, {observer};
REVOKE CREATE ON SCHEMA {schema} FROM {producer}, {consumer}, {observer};

REVOKE ALL ON {schema}.pgqrs_queues, {schema}.pgqrs_workers, {schema}.pgqrs_messages, {schema}.pgqrs_workflows,
    {schema}.pgqrs_workflow_runs, {schema}.pgqrs_workflow_steps, {schema}._sqlx_migrations,
    {schema}.pgqrs_schema_migrations, {schema}.pgqrs_schema_roles
    FROM {producer}, {consumer}, {observer};
REVOKE ALL ON SEQUENCE {schema}.pgqrs_queues_id_seq, {schema}.pgqrs_workers_id_seq, {schema}.pgqrs_messages_id_seq
    FROM {producer}, {consumer}, {observer};

-- Everybody may see queues, workers and the state of the schema, and count and list messages, but not what is in them.
GRANT SELECT ON {schema}.pgqrs_queues, {schema}.pgqrs_workers, {schema}.pgqrs_schema_migrations, {schema}._sqlx_migrations
    TO {producer}, {consumer}, {observer};
GRANT SELECT (id, queue_id, vt, enqueued_at, read_ct, dequeued_at, producer_worker_id, consumer_worker_id, archived_at, dead_reason,
              dedup_key, deaths)
    ON {schema}.pgqrs_messages TO {producer}, {observer};

-- Who waits for messages says so in the queue's row. The right to write one column is also the right to lock the row,
-- which who sends must do against its deletion.
GRANT UPDATE (idle_until) ON {schema}.pgqrs_queues TO {producer}, {consumer};

-- Whoever works registers, beats, pauses and stops itself, its pod, and the dead holder of its name. What that one held is
-- free again: that is why a producer may write the two columns of a lease. Upstream's clients write the columns `status`
-- and `started_at` when they register, and `queue_id` when they come back under a stopped worker's name. A sidecar has the
-- rights of its app, and writes down whose pod the rows of unmodified processes are.
GRANT INSERT (name, queue_id, started_at, heartbeat_at, status, pod_uid, pod_name, pod_namespace, cluster, container, owner),
    UPDATE (name, queue_id, started_at, heartbeat_at, shutdown_at, status, pod_uid, pod_name, pod_namespace, cluster, container,
            terminating, adopted, stop_reason, owner)
    ON {schema}.pgqrs_workers TO {producer}, {consumer};
GRANT UPDATE (consumer_worker_id, vt) ON {schema}.pgqrs_messages TO {producer};

-- Upstream's clients also name the columns that stay empty. The id is drawn before messages with keys are written.
GRANT INSERT (id, queue_id, payload, vt, enqueued_at, read_ct, dequeued_at, producer_worker_id, consumer_worker_id, headers,
              dedup_key)
    ON {schema}.pgqrs_messages TO {producer};
GRANT USAGE ON SEQUENCE {schema}.pgqrs_messages_id_seq TO {producer};
GRANT EXECUTE ON FUNCTION {schema}.pgqrs_check_key(bigint, bigint, text, timestamptz) TO {producer};

GRANT SELECT, DELETE ON {schema}.pgqrs_messages TO {consumer};
GRANT UPDATE (vt, read_ct, dequeued_at, consumer_worker_id, archived_at, dead_reason, deaths) ON {schema}.pgqrs_messages TO {consumer};

-- name: not_owned
-- Whether anything of ours belongs to somebody else than the role $2. Giving it away locks the tables, so only if need be.
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind = 'r' AND (c.relname LIKE 'pgqrs\_%' OR c.relname = '_sqlx_migrations')
      AND pg_get_userbyid(c.relowner) <> $2
)

-- name: give_to_owner
-- Whoever migrates has to own what it changes. Sequences follow their tables.
ALTER TABLE {schema}.pgqrs_queues OWNER TO {owner};
ALTER TABLE {schema}.pgqrs_workers OWNER TO {owner};
ALTER TABLE {schema}.pgqrs_messages OWNER TO {owner};
ALTER TABLE {schema}.pgqrs_workflows OWNER TO {owner};
ALTER TABLE {schema}.pgqrs_workflow_runs OWNER TO {owner};
ALTER TABLE {schema}.pgqrs_workflow_steps OWNER TO {owner};
ALTER TABLE {schema}._sqlx_migrations OWNER TO {owner};
ALTER TABLE {schema}.pgqrs_schema_migrations OWNER TO {owner};
ALTER TABLE {schema}.pgqrs_schema_roles OWNER TO {owner};
ALTER FUNCTION {schema}.pgqrs_keep_messages_of_runs() OWNER TO {owner};
ALTER FUNCTION {schema}.pgqrs_find_message_of_run() OWNER TO {owner};
ALTER FUNCTION {schema}.pgqrs_check_key(bigint, bigint, text, timestamptz) OWNER TO {owner};
ALTER TYPE {schema}.worker_status OWNER TO {owner};
ALTER TYPE {schema}.pgqrs_workflow_status OWNER TO {owner};
