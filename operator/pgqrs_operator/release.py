"""`pgqrs-operator release`: takes our finalizers off every resource, for the end of the installation.

The operator is stopped first, or it would put them back. Rows in databases stay as they are.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pgqrs_operator.api import ApiError, ConflictError, Kubernetes, NotFoundError
from pgqrs_operator.connection import connect
from pgqrs_operator.names import FINALIZER, QUEUES, WORKERS

if TYPE_CHECKING:
    from pgqrs_operator.settings import Settings

_log = logging.getLogger(__name__)

_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.5
_ATTEMPTS = 5


async def release(settings: Settings) -> int:
    """Stop the operator's Deployment and let every resource go; give the exit status."""
    async with await connect() as client:
        kubernetes = Kubernetes(client)
        try:
            await _stop_operator(kubernetes, settings)
            count = 0
            for plural, kind in ((WORKERS, "PgqrsWorker"), (QUEUES, "PgqrsQueue")):
                count += await _let_go(kubernetes, plural, kind, settings.watch_namespace)
                left = await _held(kubernetes, plural, kind, settings.watch_namespace)
                if left:
                    _log.critical("resources are not released", extra={"kind": kind, "left": len(left)})
                    return 1
        except (ApiError, TimeoutError) as error:
            _log.critical("resources are not released", extra={"error": str(error) or "it took too long"})
            return 1
    _log.info("resources released", extra={"count": count})
    return 0


async def _stop_operator(kubernetes: Kubernetes, settings: Settings) -> None:
    """Scale the Deployment to nothing and wait until its last pod is gone, which the Deployment does not count."""
    try:
        await kubernetes.scale(settings.namespace, f"{settings.release}-operator", 0)
    except NotFoundError:
        return
    selector = f"app.kubernetes.io/component=operator,app.kubernetes.io/instance={settings.release}"
    async with asyncio.timeout(_STOP_SECONDS):
        while await kubernetes.count_pods(settings.namespace, selector):  # noqa: ASYNC110 - the API server sets no event
            await asyncio.sleep(_POLL_SECONDS)


async def _held(kubernetes: Kubernetes, plural: str, kind: str, namespace: str | None) -> list[dict[str, Any]]:
    """Give the metadata of every resource that has our finalizer."""
    found = await kubernetes.list_resources(plural, kind, namespace)
    return [item["metadata"] for item in found.items if FINALIZER in (item["metadata"].get("finalizers") or ())]


async def _let_go(kubernetes: Kubernetes, plural: str, kind: str, namespace: str | None) -> int:
    count = 0
    for _ in range(_ATTEMPTS):
        left = await _held(kubernetes, plural, kind, namespace)
        if not left:
            break
        for metadata in left:
            try:
                await kubernetes.patch_finalizers(
                    plural, metadata["namespace"], metadata["name"], version=int(metadata["resourceVersion"]),
                    finalizers=[name for name in metadata["finalizers"] if name != FINALIZER],
                )  # fmt: skip
                count += 1
            except (NotFoundError, ConflictError):
                continue
    return count
