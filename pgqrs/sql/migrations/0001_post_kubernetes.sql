-- What upstream has and nobody needs. Its clients do not notice that these are gone (`tests/interop`);
-- somebody may have removed one of them already.

-- Makes every heartbeat four times dearer.
DROP INDEX IF EXISTS {schema}.idx_pgqrs_workers_heartbeat;

-- Checked on every enqueue and archive, and in the way of removing workers that once did something.
ALTER TABLE {schema}.pgqrs_messages
    DROP CONSTRAINT IF EXISTS fk_messages_queue_id,
    DROP CONSTRAINT IF EXISTS fk_messages_producer_worker_id,
    DROP CONSTRAINT IF EXISTS fk_messages_consumer_worker_id;
-- Served the second of these only.
DROP INDEX IF EXISTS {schema}.idx_pgqrs_messages_producer_worker_id;

-- Looks for a run of a workflow once for each message that is deleted, two thirds of the time of deleting 300. The triggers of
-- the pre part say the same.
ALTER TABLE {schema}.pgqrs_workflow_runs DROP CONSTRAINT IF EXISTS pgqrs_workflow_runs_message_id_fkey;
