-- The tables of upstream pgqrs 0.15.3, for a database that upstream has not installed.
-- Names, types and defaults are upstream's: an unmodified client has to find them exactly so.
CREATE TYPE {schema}.worker_status AS ENUM ('ready', 'polling', 'suspended', 'interrupted', 'stopped');

CREATE TABLE {schema}.pgqrs_queues (
    id bigserial PRIMARY KEY,
    queue_name varchar NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE {schema}.pgqrs_workers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    queue_id bigint CONSTRAINT fk_workers_queue_id REFERENCES {schema}.pgqrs_queues (id),
    started_at timestamptz DEFAULT now(),
    heartbeat_at timestamptz DEFAULT now(),
    shutdown_at timestamptz,
    status {schema}.worker_status NOT NULL DEFAULT 'ready'
);
CREATE INDEX idx_pgqrs_workers_queue_status ON {schema}.pgqrs_workers (queue_id, status);
CREATE INDEX idx_pgqrs_workers_heartbeat ON {schema}.pgqrs_workers (heartbeat_at);

CREATE TABLE {schema}.pgqrs_messages (
    id bigserial PRIMARY KEY,
    queue_id bigint NOT NULL CONSTRAINT fk_messages_queue_id REFERENCES {schema}.pgqrs_queues (id),
    payload jsonb NOT NULL,
    vt timestamptz DEFAULT now(),
    enqueued_at timestamptz DEFAULT now(),
    read_ct integer DEFAULT 0,
    dequeued_at timestamptz,
    producer_worker_id bigint CONSTRAINT fk_messages_producer_worker_id REFERENCES {schema}.pgqrs_workers (id),
    consumer_worker_id bigint CONSTRAINT fk_messages_consumer_worker_id REFERENCES {schema}.pgqrs_workers (id),
    archived_at timestamptz
);
CREATE INDEX idx_pgqrs_messages_hot_path ON {schema}.pgqrs_messages (queue_id, vt, enqueued_at, id)
    WHERE archived_at IS NULL;
CREATE INDEX idx_pgqrs_messages_consumer_worker_id_active ON {schema}.pgqrs_messages (consumer_worker_id)
    WHERE archived_at IS NULL AND consumer_worker_id IS NOT NULL;
CREATE INDEX idx_pgqrs_messages_archived_at ON {schema}.pgqrs_messages (queue_id, archived_at)
    WHERE archived_at IS NOT NULL;
CREATE INDEX idx_pgqrs_messages_producer_worker_id ON {schema}.pgqrs_messages (producer_worker_id);

CREATE TYPE {schema}.pgqrs_workflow_status AS ENUM ('QUEUED', 'RUNNING', 'SUCCESS', 'ERROR', 'PAUSED');

CREATE TABLE {schema}.pgqrs_workflows (
    id bigserial PRIMARY KEY,
    name varchar(255) NOT NULL UNIQUE,
    queue_id bigint NOT NULL REFERENCES {schema}.pgqrs_queues (id),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_pgqrs_workflows_name ON {schema}.pgqrs_workflows (name);

CREATE TABLE {schema}.pgqrs_workflow_runs (
    id bigserial PRIMARY KEY,
    workflow_id bigint NOT NULL REFERENCES {schema}.pgqrs_workflows (id) ON DELETE CASCADE,
    message_id bigint NOT NULL UNIQUE REFERENCES {schema}.pgqrs_messages (id),
    status {schema}.pgqrs_workflow_status NOT NULL,
    input jsonb,
    output jsonb,
    error jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    paused_at timestamptz,
    completed_at timestamptz,
    worker_id bigint REFERENCES {schema}.pgqrs_workers (id)
);
CREATE INDEX idx_pgqrs_workflow_runs_message_id ON {schema}.pgqrs_workflow_runs (message_id);
CREATE INDEX idx_pgqrs_workflow_runs_status ON {schema}.pgqrs_workflow_runs (status);

CREATE TABLE {schema}.pgqrs_workflow_steps (
    id bigserial PRIMARY KEY,
    run_id bigint NOT NULL REFERENCES {schema}.pgqrs_workflow_runs (id) ON DELETE CASCADE,
    step_name varchar(255) NOT NULL,
    status {schema}.pgqrs_workflow_status NOT NULL,
    input jsonb,
    output jsonb,
    error jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    retry_count integer NOT NULL DEFAULT 0,
    retry_at timestamptz,
    last_retry_at timestamptz,
    UNIQUE (run_id, step_name)
);
CREATE INDEX idx_pgqrs_workflow_steps_status ON {schema}.pgqrs_workflow_steps (status);
CREATE INDEX idx_pgqrs_workflow_steps_retry_at ON {schema}.pgqrs_workflow_steps (retry_at) WHERE retry_at IS NOT NULL;

-- Upstream's record of its own migrations; the rows are written by the installer, so that its bootstrap finds nothing to do.
CREATE TABLE {schema}._sqlx_migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);
