-- What upstream has and nobody needs. Its clients do not notice that these are gone (`tests/interop`).

-- Makes every heartbeat four times dearer.
DROP INDEX {schema}.idx_pgqrs_workers_heartbeat;

-- Checked on every enqueue and archive, and in the way of removing workers that once did something.
ALTER TABLE {schema}.pgqrs_messages
    DROP CONSTRAINT fk_messages_queue_id,
    DROP CONSTRAINT fk_messages_producer_worker_id,
    DROP CONSTRAINT fk_messages_consumer_worker_id;
-- Served the second of these only.
DROP INDEX {schema}.idx_pgqrs_messages_producer_worker_id;
