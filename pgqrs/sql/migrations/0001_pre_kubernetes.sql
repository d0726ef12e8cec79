-- What a queue declares stands in its row, so that every client and every reaper reads the same.
ALTER TABLE {schema}.pgqrs_queues
    ADD COLUMN paused boolean NOT NULL DEFAULT false,
    ADD COLUMN lease_duration interval NOT NULL DEFAULT '30 seconds',
    ADD COLUMN read_limit integer NOT NULL DEFAULT 5,
    ADD COLUMN death_limit integer NOT NULL DEFAULT 3,
    ADD COLUMN dedup_window interval NOT NULL DEFAULT '0',
    ADD COLUMN heartbeat_timeout interval NOT NULL DEFAULT '60 seconds',
    ADD COLUMN owner text;
-- When what a handler failed on is tried again: after the first failure, by what each delay is longer than the one before, the
-- longest, and the share that chance may take away.
ALTER TABLE {schema}.pgqrs_queues
    ADD COLUMN backoff_first interval NOT NULL DEFAULT '1 second',
    ADD COLUMN backoff_factor double precision NOT NULL DEFAULT 4,
    ADD COLUMN backoff_most interval NOT NULL DEFAULT '1 hour',
    ADD COLUMN backoff_jitter double precision NOT NULL DEFAULT 0.5;
-- Until when a worker may be waiting to be told of a message; NULL most of the time, so sending need not tell anybody.
ALTER TABLE {schema}.pgqrs_queues ADD COLUMN idle_until timestamptz;
-- How long what is over is kept; NULL keeps it for ever. Read by whoever runs the reaping.
ALTER TABLE {schema}.pgqrs_queues
    ADD COLUMN archive_retention interval,
    ADD COLUMN dead_retention interval,
    ADD COLUMN worker_retention interval;

-- Who a worker is. Host and port come out of the name (`HOST:PORT`, and `HOST:PORT#ID` once it was replaced), so that the
-- identity of the documents and upstream's are one. Nine digits at most: no name that upstream takes may fail here.
-- `adopted`: its process knows nothing of the pod, and the pod's sidecar looks after it.
ALTER TABLE {schema}.pgqrs_workers
    ADD COLUMN hostname text GENERATED ALWAYS AS (
        coalesce(substring(name FROM '^(.*):[0-9]{1,9}(?:#[0-9]+)?$'), regexp_replace(name, '#[0-9]+$', ''))
    ) STORED,
    ADD COLUMN port integer GENERATED ALWAYS AS (
        CAST(substring(name FROM '^.*:([0-9]{1,9})(?:#[0-9]+)?$') AS integer)
    ) STORED,
    ADD COLUMN cluster text,
    ADD COLUMN pod_namespace text,
    ADD COLUMN pod_name text,
    ADD COLUMN pod_uid text,
    ADD COLUMN container text,
    ADD COLUMN terminating boolean NOT NULL DEFAULT false,
    ADD COLUMN adopted boolean NOT NULL DEFAULT false,
    ADD COLUMN stop_reason text,
    ADD COLUMN owner text;

-- A dead letter is archived, so that no client of any kind is handed it, and carries the reason.
ALTER TABLE {schema}.pgqrs_messages ADD COLUMN dead_reason text;
-- What a sender says beside the payload: the context of a trace, and by which key a second one of the same is known.
ALTER TABLE {schema}.pgqrs_messages ADD COLUMN headers jsonb, ADD COLUMN dedup_key text;
-- How many processes died while they held it, NULL for none.
ALTER TABLE {schema}.pgqrs_messages ADD COLUMN deaths smallint;

CREATE INDEX pgqrs_workers_live_hostname ON {schema}.pgqrs_workers (hostname) WHERE status <> 'stopped';
-- Dead letters are few among many archived messages, and are counted and listed.
CREATE INDEX pgqrs_messages_dead ON {schema}.pgqrs_messages (queue_id, id) WHERE dead_reason IS NOT NULL;
-- And they are removed by age.
CREATE INDEX pgqrs_messages_dead_since ON {schema}.pgqrs_messages (queue_id, archived_at) WHERE dead_reason IS NOT NULL;
-- One live message of a key. Messages without one, and so all that upstream sends, are not in it and never conflict; nor is
-- a dead letter that upstream replayed, which keeps its key and its reason.
CREATE UNIQUE INDEX pgqrs_messages_live_key ON {schema}.pgqrs_messages (queue_id, dedup_key)
    WHERE archived_at IS NULL AND dedup_key IS NOT NULL AND dead_reason IS NULL;
-- When a key was last archived, for queues in which it is taken for a while after that (`dedup_window`). A dead letter takes none.
CREATE INDEX pgqrs_messages_archived_key ON {schema}.pgqrs_messages (queue_id, dedup_key, archived_at)
    WHERE archived_at IS NOT NULL AND dedup_key IS NOT NULL AND dead_reason IS NULL;
-- The few live ones that processes died under, in the order in which they are handed out: no other index has that order, so nothing
-- can tempt the planner to look for them in the whole backlog.
CREATE INDEX pgqrs_messages_suspect ON {schema}.pgqrs_messages (queue_id, deaths, vt, enqueued_at, id)
    WHERE archived_at IS NULL AND deaths > 0;
CREATE INDEX pgqrs_workers_pod ON {schema}.pgqrs_workers (pod_uid, id) WHERE pod_uid IS NOT NULL;
-- Which rows a pod's unmodified processes made (`pods.adopt`), and whether another pod has its name. By bytes, because
-- PostgreSQL's order of a language knows no ranges of names that begin alike.
CREATE INDEX pgqrs_workers_podless ON {schema}.pgqrs_workers (hostname COLLATE "C") WHERE pod_uid IS NULL AND status <> 'stopped';
CREATE INDEX pgqrs_workers_live_pod_name ON {schema}.pgqrs_workers (pod_name) WHERE pod_uid IS NOT NULL AND status <> 'stopped';

-- Heartbeats are the most frequent writes: with room on the page, and after the post part, they touch no index.
ALTER TABLE {schema}.pgqrs_workers SET (fillfactor = 50);

-- What upstream's foreign key from a run of a workflow to its message says, but a DELETE asks once for all that it took. The post
-- part removes the foreign key. With the owner's rights, as foreign keys have: who deletes messages may have none on runs.
CREATE FUNCTION {schema}.pgqrs_keep_messages_of_runs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM gone JOIN {schema}.pgqrs_workflow_runs r ON r.message_id = gone.id) THEN
        RAISE foreign_key_violation USING
            MESSAGE = 'a message that a run of a workflow refers to cannot be deleted',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = 'pgqrs_workflow_runs', CONSTRAINT = 'pgqrs_workflow_runs_message_id_fkey';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER pgqrs_keep_messages_of_runs AFTER DELETE ON {schema}.pgqrs_messages
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION {schema}.pgqrs_keep_messages_of_runs();
CREATE FUNCTION {schema}.pgqrs_find_message_of_run() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM {schema}.pgqrs_messages m WHERE m.id = NEW.message_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('there is no message %s for a run of a workflow', NEW.message_id),
            SCHEMA = TG_TABLE_SCHEMA, TABLE = 'pgqrs_workflow_runs', CONSTRAINT = 'pgqrs_workflow_runs_message_id_fkey';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER pgqrs_find_message_of_run AFTER INSERT OR UPDATE OF message_id ON {schema}.pgqrs_workflow_runs
    FOR EACH ROW EXECUTE FUNCTION {schema}.pgqrs_find_message_of_run();

-- Asked for each message that was added with a key where keys are taken for a while after they were archived. A statement
-- sees what was committed before it began, but a function that is volatile what was committed until now: with the key in the
-- unique index nobody can come after this, and who came before and was archived meanwhile is seen here. STRICT: where no key is
-- given, or none stays taken, it is not run.
CREATE FUNCTION {schema}.pgqrs_check_key(message bigint, of_queue bigint, of_key text, since timestamptz) RETURNS bigint
    LANGUAGE plpgsql VOLATILE STRICT AS $$
BEGIN
    IF since < (
        SELECT m.archived_at FROM {schema}.pgqrs_messages m
        WHERE m.queue_id = of_queue AND m.dedup_key = of_key AND m.archived_at IS NOT NULL AND m.dead_reason IS NULL
        ORDER BY m.archived_at DESC LIMIT 1
    ) THEN
        RAISE unique_violation USING
            MESSAGE = 'a message of this key came and was archived while another one was added; send it again',
            TABLE = 'pgqrs_messages', CONSTRAINT = 'pgqrs_messages_archived_key';
    END IF;
    RETURN message;
END $$;
