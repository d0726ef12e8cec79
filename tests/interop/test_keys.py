"""Deduplication keys and headers, which upstream does not know: it neither loses them nor stumbles over them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pgqrs

if TYPE_CHECKING:
    import asyncpg

    from tests.support.upstream import UpstreamClient


async def test_a_key_of_ours_is_free_again_when_upstream_is_done_with_it(
    theirs: UpstreamClient, sender: pgqrs.Producer, connection: asyncpg.Connection
) -> None:
    archived = await sender.enqueue({"n": 1}, key="order-7", headers={"traceparent": "00-1"})
    assert await sender.enqueue({"n": 2}, key="order-7") == archived
    (received,) = await theirs.call("dequeue", name="receiver")
    assert (received["id"], received["payload"]) == (archived, {"n": 1})
    assert await sender.enqueue({"n": 2}, key="order-7") == archived, "leased is live, whoever leased it"
    assert await theirs.call("archive", name="receiver", message_id=archived)
    deleted = await sender.enqueue({"n": 3}, key="order-7")
    assert deleted != archived
    assert [one["id"] for one in await theirs.call("dequeue", name="receiver", limit=5)] == [deleted]
    assert await theirs.call("release", name="receiver", message_ids=[deleted]) == 1
    assert await sender.enqueue({"n": 4}, key="order-7") == deleted
    await theirs.call("dequeue", name="receiver")
    assert await theirs.call("delete", name="receiver", message_id=deleted)
    assert await sender.enqueue({"n": 5}, key="order-7") not in {archived, deleted}
    kept = await connection.fetchrow("SELECT headers::text, dedup_key FROM pgqrs_messages WHERE id = $1", archived)
    assert kept is not None
    assert tuple(kept) == ('{"traceparent": "00-1"}', "order-7")


async def test_what_upstream_sends_has_no_key_and_no_headers(
    theirs: UpstreamClient, sender: pgqrs.Producer, ours: pgqrs.Consumer
) -> None:
    keyed = await sender.enqueue("ours", key="k", headers={"h": 1})
    # Twice the same: without a key nothing is taken for a repetition.
    sent = [await theirs.call("enqueue", name="sender", payload="theirs") for _ in range(2)]
    received = await ours.dequeue(10)
    assert [(message.id, message.key, message.headers) for message in received] == [
        (keyed, "k", {"h": 1}),
        *((message_id, None, {}) for message_id in sent),
    ]


async def test_dead_letters_with_a_key_are_nothing_that_upstream_stumbles_over(
    theirs: UpstreamClient, sender: pgqrs.Producer, ours: pgqrs.Consumer, admin: pgqrs.Admin
) -> None:
    dead = await sender.enqueue("dead", key="k")
    await ours.dequeue()
    assert await ours.dead_letter(dead, "broken")
    live = await sender.enqueue("live", key="k")
    assert live != dead
    (queue,) = await (await admin.get_queues()).list()
    archived = await theirs.call("archived", queue_id=queue.id)
    assert [one["id"] for one in archived] == [dead]
    # Ours gives up the key, because the live message has it by now; upstream then gets both.
    assert await (await admin.get_messages()).replay(dead)
    received = await theirs.call("dequeue", name="receiver", limit=5)
    assert {one["id"] for one in received} == {dead, live}
    assert await theirs.call("archive_many", name="receiver", message_ids=[dead, live]) == [True, True]


#: What upstream's Rust client runs to send an archived message again; neither its wheel nor its Python API has it.
_UPSTREAM_REPLAY = """
    UPDATE pgqrs_messages
    SET archived_at = NULL, read_ct = 0, vt = now(), enqueued_at = now(), dequeued_at = NULL, consumer_worker_id = NULL
    WHERE id = $1 AND archived_at IS NOT NULL
"""


async def test_upstream_may_replay_a_dead_letter_whose_key_a_live_message_has(
    admin: pgqrs.Admin,
    theirs: UpstreamClient,
    sender: pgqrs.Producer,
    ours: pgqrs.Consumer,
    connection: asyncpg.Connection,
) -> None:
    dead = await sender.enqueue("dead", key="k")
    await ours.dequeue()
    assert await ours.dead_letter(dead, "broken")
    live = await sender.enqueue("live", key="k")
    assert await connection.execute(_UPSTREAM_REPLAY, dead) == "UPDATE 1"
    assert await sender.enqueue("again", key="k") == live, "the letter has no part in it any more"
    received = await theirs.call("dequeue", name="receiver", limit=5)
    assert {one["id"] for one in received} == {dead, live}
    assert await theirs.call("release", name="receiver", message_ids=[dead]) == 1
    assert [message.id for message in await ours.dequeue(5)] == [dead]
    await admin.database.fetch("messages.fail", ours.worker_id, [dead], [0.0], ["failed once more"])
    assert [message.id for message in await ours.dequeue(5)] == [dead]
    assert await ours.archive(dead)
    assert await theirs.call("archive", name="receiver", message_id=live)
    assert await sender.enqueue("again", key="k") not in {dead, live}


async def test_what_upstream_archives_keeps_its_key_for_the_queue_s_window(
    admin: pgqrs.Admin, theirs: UpstreamClient, sender: pgqrs.Producer
) -> None:
    await admin.set_policy("emails", pgqrs.QueuePolicy(deduplication_window=timedelta(hours=1)))
    archived = await sender.enqueue({"n": 1}, key="order-7")
    await theirs.call("dequeue", name="receiver")
    assert await theirs.call("archive", name="receiver", message_id=archived)
    assert await sender.enqueue({"n": 2}, key="order-7") == archived
    sent = [await theirs.call("enqueue", name="sender", payload={"n": n}) for n in range(2)]
    received = await theirs.call("dequeue", name="receiver", limit=5)
    assert len(set(sent)) == 2
    assert {one["id"] for one in received} == set(sent), "nothing that upstream sends is taken for a repetition"
