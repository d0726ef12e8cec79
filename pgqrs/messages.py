"""Messages as those see them who look after a queue: its dead letters, listed and sent again.

Each function may be called by several at once: what one of them is changing the others leave to it. Consumers hold a
message by its lease (`pgqrs.consumer`); nothing here touches one that is live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgqrs import arguments, names, payloads, queues, rows
from pgqrs.models import MessageId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pgqrs.database import Database
    from pgqrs.models import DeadLetterInfo
    from pgqrs.payloads import Codec

#: Dead letters that one statement sends again.
_REPLAY_SLICE = 1000


async def dead_letters(
    db: Database,
    queue: str,
    *,
    reason: str | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
    after: int = 0,
    limit: int = 100,
    codec: Codec = payloads.DEFAULT_CODEC,
) -> list[DeadLetterInfo]:
    """Give a page of a queue's dead letters, in the order of their ids.

    Args:
        db: where.
        queue: the queue's name.
        reason: a pattern of SQL's LIKE for the reason, such as `%timeout%`; any reason if not given.
        since: those that died then or later; a time without a zone is taken as UTC.
        before: those that died earlier than this.
        after: the id of the last letter of the page before.
        limit: the most letters, 1 to 10,000.
        codec: reads payloads; those that it refuses come as plain JSON, for that may be what they died of.

    Raises:
        QueueNotFoundError: there is no such queue.
        ValidationError: an argument is not allowed.
    """
    filters = _filters(queue, reason, since, before)
    last = arguments.whole_number("id in after", after, least=0, most=arguments.MAX_ID)
    found = await db.fetch("dead_letters.list", *filters, last, arguments.batch_size(limit))
    if not found:
        await queues.get(db, queue)

    def loads(text: str) -> Any:
        try:
            return codec.loads(text)
        except Exception:  # noqa: BLE001 - a codec of the app's own may raise anything
            return payloads.DEFAULT_CODEC.loads(text)

    return [rows.dead_letter(row, loads) for row in found]


async def replay(db: Database, message_ids: Sequence[int]) -> list[bool]:
    """Send dead letters again: they are ready at once, as if they had never been leased, behind what is ready already.

    A letter that had a deduplication key comes back without it, because a live message may have the key by now.

    Args:
        db: where.
        message_ids: which.

    Returns:
        For each of them whether it was a dead letter.

    Raises:
        ValidationError: one of them is no id.
    """
    ids = arguments.ids(message_ids)
    done = {row["id"] for row in await db.fetch("dead_letters.replay", ids)}
    return [message_id in done for message_id in ids]


async def replay_matching(
    db: Database,
    queue: str,
    *,
    reason: str | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
) -> int:
    """Send all dead letters of a queue again that match, in slices of 1,000, each a transaction of its own.

    Where that is cut short, calling again goes on. For the arguments see `dead_letters`, for what becomes of a letter
    `replay`.

    Returns:
        How many were sent again.

    Raises:
        QueueNotFoundError: there is no such queue.
        ValidationError: an argument is not allowed.
    """
    filters = _filters(queue, reason, since, before)
    await queues.get(db, queue)
    replayed = last = 0
    while found := await db.fetch("dead_letters.replay_matching", *filters, last, _REPLAY_SLICE):
        replayed += len(found)
        # A letter that dies again meanwhile is not met a second time.
        last = MessageId(found[-1]["id"])
    return replayed


def _filters(
    queue: str, reason: str | None, since: datetime | None, before: datetime | None
) -> tuple[str, str | None, datetime | None, datetime | None]:
    return (
        names.queue_name(queue),
        None if reason is None else payloads.pattern(reason),
        None if since is None else arguments.moment("since", since),
        None if before is None else arguments.moment("before", before),
    )
