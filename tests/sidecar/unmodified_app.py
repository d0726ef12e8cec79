"""An app that knows nothing of Kubernetes: runs in upstream's environment and consumes with upstream's own loop.

It prints JSON lines. It is never imported by a test.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

#: Upstream's package; by this way type checkers don't take it for ours.
pgqrs: Any = importlib.import_module("pgqrs")


def _tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def main(dsn: str, queue: str, handler_seconds: float) -> None:
    """Consume until the loop ends, and tell why it did."""
    store = await pgqrs.connect_with(pgqrs.Config(dsn))
    consumer = await store.consumer(queue)
    _tell("started", worker_id=consumer.worker_id)

    async def handle(message: Any) -> None:
        _tell("leased", id=message.id)
        await asyncio.sleep(handler_seconds)
        _tell("handled", id=message.id)

    try:
        await pgqrs.dequeue().worker(consumer).batch(1).handle(handle).poll(store)
    except pgqrs.PgqrsError as error:
        _tell("ended", why=str(error))


asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
