"""Sends e-mails: a consumer of the queue that the pod's label names."""

import asyncio
import os

import asyncpg

import pgqrs

CONCURRENCY = int(os.environ.get("CONCURRENCY", "4"))
SEND_SECONDS = float(os.environ.get("SEND_SECONDS", "0.075"))

# What was sent, by whom and when. A message is delivered at least once, so whoever must not send an e-mail twice looks
# here first; this example only keeps the book. Each delivery has its own row: the number of the attempt does not tell
# two of them apart, because a message that is given back unhandled does not count. The lock lets several pods start at
# once.
TABLE = """
SELECT pg_advisory_xact_lock(hashtext('emails_sent'));
CREATE TABLE IF NOT EXISTS emails_sent (
    id bigserial PRIMARY KEY,
    message_id bigint NOT NULL, attempt int NOT NULL,
    worker_id bigint NOT NULL, pod text NOT NULL, pod_uid text NOT NULL, container text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(), ended_at timestamptz)
"""
BEGIN = """
INSERT INTO emails_sent (message_id, attempt, worker_id, pod, pod_uid, container)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
"""
END = "UPDATE emails_sent SET ended_at = clock_timestamp() WHERE id = $1"
# What the injector tells every container of a labelled pod about itself.
WHERE = [os.environ[name] for name in ("PGQRS_POD_NAME", "PGQRS_POD_UID", "PGQRS_CONTAINER")]


async def send_email(message: pgqrs.Message, book: asyncpg.Pool) -> None:
    entry = await book.fetchval(BEGIN, message.id, message.read_ct, message.consumer_worker_id, *WHERE)
    await asyncio.sleep(SEND_SECONDS)  # here the e-mail would be sent to message.payload["to"]
    await book.execute(END, entry)


async def main() -> None:
    # What is raised here ends the process: Kubernetes starts it anew, and the messages that it held are free at once.
    async with pgqrs.Consumer() as consumer, asyncpg.create_pool(os.environ["PGQRS_DSN"], min_size=1) as book:
        await book.execute(TABLE)

        async def send(message: pgqrs.Message) -> None:
            await send_email(message, book)

        # Returns when the pod has drained. What raises is tried again later; maxReads bounds how often.
        await consumer.run(send, concurrency=CONCURRENCY)


asyncio.run(main())
