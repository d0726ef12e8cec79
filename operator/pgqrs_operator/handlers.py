"""kopf's part: it watches, and every event goes into the store as it is. Nothing is decided here.

The handlers are coroutines, which kopf runs in the event loop; plain functions it runs in threads, and the store has no
locks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kopf

from pgqrs_operator.names import GROUP, QUEUE_LABEL, QUEUES, VERSION, WORKERS
from pgqrs_operator.pods import version
from pgqrs_operator.storages import NoDifferences, NoProgress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgqrs_operator.store import Shelf, Store

_DELETED = "DELETED"
#: A watch that shows nothing for this long, in seconds, is opened anew; bookmarks come every minute.
_INACTIVITY_SECONDS = 70.0
#: Objects of one page of a list, and how long a task that hands on the events of one object waits for the next of them,
#: in seconds.
_CHUNK = 50
_IDLE_SECONDS = 0.05


def registry(store: Store) -> kopf.OperatorRegistry:
    """Give the handlers of our two kinds and of labelled pods."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
        # kopf's default would import the whole synchronous half of the `kubernetes` package.
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(GROUP, VERSION, QUEUES, registry=handlers)
    async def queue_seen(event: Mapping[str, Any], **_: Any) -> None:
        take(store.queues, event, "PgqrsQueue")

    @kopf.on.event(GROUP, VERSION, WORKERS, registry=handlers)
    async def worker_seen(event: Mapping[str, Any], **_: Any) -> None:
        take(store.workers, event, "PgqrsWorker")

    @kopf.on.event("", "v1", "pods", labels={QUEUE_LABEL: kopf.PRESENT}, registry=handlers)
    async def pod_seen(event: Mapping[str, Any], **_: Any) -> None:
        take(store.pods, event, "Pod")

    return handlers


def take(shelf: Shelf[Any], event: Mapping[str, Any], kind: str) -> None:
    """Put what an event of a watch shows into the store."""
    body = event["object"]
    # What is gone shows how it ended.
    shelf.put({**body, "kind": kind})
    if event["type"] == _DELETED:
        shelf.drop(body["metadata"]["uid"], version(body["metadata"]))


def settings() -> kopf.OperatorSettings:
    """Give kopf's settings: no events of its own, only labelled pods.

    Its finalizer is not ours: kopf takes its own off wherever it has no handler of deletions.
    """
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.watching.inactivity_timeout = _INACTIVITY_SECONDS
    # kopf's own would keep ten thousand objects in memory at its start, each with a task, for five seconds. A limit of
    # tasks would keep them as well: it goes on listing while they wait for one.
    chosen.watching.chunk_size = _CHUNK
    chosen.queueing.idle_timeout = _IDLE_SECONDS
    chosen.persistence.diffbase_storage = NoDifferences()
    chosen.persistence.progress_storage = NoProgress()
    chosen.watching.label_selectors["v1", "pods"] = QUEUE_LABEL
    return chosen
