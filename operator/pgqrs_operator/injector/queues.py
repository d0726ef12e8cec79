"""Looks up the PgqrsQueue that a pod's label names; only reads, and never answers from memory."""

from __future__ import annotations

import asyncio
import difflib
import re
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from kubernetes.aio.client.api.custom_objects_api import CustomObjectsApi
from kubernetes.aio.client.exceptions import ApiException

from pgqrs_injection.settings import QueueTarget
from pgqrs_operator.injector.errors import LookupFailedError, UnknownQueueError
from pgqrs_operator.names import GROUP, QUEUE_LABEL, QUEUES, VERSION

if TYPE_CHECKING:
    from kubernetes.aio.client.api_client import ApiClient

_NOT_FOUND = 404
#: Both questions together; the webhook's own limit is 5 s.
_DEADLINE_SECONDS = 2.0
#: Names that objects have. The API server asks before it checks the label, and some texts lead a request elsewhere.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
#: How much of a label is repeated; those that the API server allows have no more characters.
_SHOWN = 63
#: More names than these are not looked through for one that was meant.
_MOST_NAMES = 500


class QueueDirectory(Protocol):
    """Knows the queues of all namespaces."""

    async def find(self, namespace: str, name: str) -> QueueTarget:
        """Give the queue of this name.

        Raises:
            UnknownQueueError: there is none; the message says what there is.
            LookupFailedError: it cannot be known at the moment.
        """


class KubernetesQueues:
    """The directory that asks the API server each time."""

    def __init__(self, client: ApiClient) -> None:
        self._objects = CustomObjectsApi(client)

    async def find(self, namespace: str, name: str) -> QueueTarget:
        """Give the queue of this name, within 2 s.

        Raises:
            UnknownQueueError: there is none; the message says what there is.
            LookupFailedError: the API server did not answer or refused.
        """
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                return await self._find(namespace, name)
        except (ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = f"status {error.status}" if isinstance(error, ApiException) else type(error).__name__
            message = f"The PgqrsQueue {namespace}/{name} could not be looked up ({reason})."
            raise LookupFailedError(message) from error

    async def _find(self, namespace: str, name: str) -> QueueTarget:
        if _NAME.fullmatch(name):
            try:
                found: Any = await self._objects.get_namespaced_custom_object(
                    GROUP, VERSION, namespace, QUEUES, name, _request_timeout=_DEADLINE_SECONDS
                )
            except ApiException as error:
                if error.status != _NOT_FOUND:
                    raise
            else:
                return target(found)
        listed: Any = await self._objects.list_namespaced_custom_object(
            GROUP, VERSION, namespace, QUEUES, limit=_MOST_NAMES, _request_timeout=_DEADLINE_SECONDS
        )
        names = [item["metadata"]["name"] for item in listed["items"]]
        raise UnknownQueueError(unknown_queue(namespace, name, names))


def target(queue: dict[str, Any]) -> QueueTarget:
    """Read what a pod must know from a PgqrsQueue; defaults are those of its schema."""
    spec = queue.get("spec") or {}
    connection = spec.get("connection") or {}
    secret = connection.get("secretRef") or {}
    return QueueTarget(
        queue=spec.get("queueName") or queue["metadata"]["name"],
        secret=secret.get("name") or "pgqrs",
        key=secret.get("key") or "dsn",
        schema=connection.get("schema") or "public",
    )


def unknown_queue(namespace: str, name: str, names: list[str]) -> str:
    """Say that there is no such queue, and which may have been meant."""
    name = name[:_SHOWN]
    message = f"There is no PgqrsQueue {name!r} in the namespace {namespace}, which the label {QUEUE_LABEL} names."
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if near:
        return f"{message} Did you mean {' or '.join(near)}?"
    if names:
        shown = ", ".join(sorted(names)[:5])
        return f"{message} There {'are' if len(names) > 1 else 'is'} {shown}{', …' if len(names) > 5 else ''}."  # noqa: PLR2004
    return f"{message} There is none at all; create it first."
