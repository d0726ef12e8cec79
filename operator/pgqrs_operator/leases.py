"""One Lease of the API server: read, written on the condition that nobody else wrote meanwhile, and watched."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp

from pgqrs_operator.api import ApiError, Kubernetes, path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubernetes.aio.client.api_client import ApiClient

_GROUP = ("apis", "coordination.k8s.io", "v1")
#: The API server ends a watch after this time, in seconds, and it is opened anew.
_WATCH_SECONDS = 240
_OK = 200


class LeaseClient(Kubernetes):
    """The Lease of one name."""

    def __init__(self, client: ApiClient, namespace: str, name: str) -> None:
        """Take a client that somebody else opens and closes."""
        super().__init__(client)
        self.namespace = namespace
        self.name = name
        self._all = path(*_GROUP, "namespaces", namespace, "leases")
        self._one = path(*_GROUP, "namespaces", namespace, "leases", name)

    async def read(self, *, timeout: float) -> dict[str, Any]:
        """Read it as it is now (no resourceVersion: a quorum read).

        Raises:
            NotFoundError: there is none.
            ApiError: the API server could not be reached within `timeout` seconds, or refused.
        """
        return await self._call("GET", self._one, timeout=timeout)

    async def make(self, spec: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """Make it.

        Raises:
            ConflictError: somebody else just did.
            ApiError: the API server could not be reached within `timeout` seconds, or refused.
        """
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": dict(spec),
        }
        return await self._call("POST", self._all, body=body, timeout=timeout)

    async def replace(self, lease: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """Write it, if it still has the version that this one was read with.

        Raises:
            ConflictError: somebody else wrote meanwhile.
            NotFoundError: it is gone.
            ApiError: the API server could not be reached within `timeout` seconds, or refused; it may have been
                written all the same where there was no answer.
        """
        return await self._call("PUT", self._one, body=dict(lease), timeout=timeout)

    async def watch(self, seen: Callable[[Mapping[str, Any]], None], *, silence: float) -> None:
        """Hand every event of it to `seen`, until the API server ends the watch.

        Raises:
            ApiError: the API server could not be reached, refused, or showed nothing for `silence` seconds.
        """
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={self.name}",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        headers = {"Accept": "application/json", **self._client.default_headers}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], self._all, "GET", None)
        url = f"{self._client.configuration.host}{self._all}?{urlencode(query)}"
        try:
            async with asyncio.timeout(silence) as deadline:
                answer = await self._client.rest_client.request("GET", url, headers=headers)  # type: ignore[no-untyped-call]  # not annotated upstream
                stream = answer.response
                try:
                    if stream.status != _OK:
                        message = f"the watch of Lease {self.name!r} was refused: HTTP {stream.status}"
                        raise ApiError(message, stream.status)
                    async for line in stream.content:
                        deadline.reschedule(asyncio.get_running_loop().time() + silence)
                        seen(json.loads(line))
                finally:
                    # Not read to its end, so it is of no use to anybody else.
                    stream.close()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = f"the watch of Lease {self.name!r} broke ({type(error).__name__})"
            raise ApiError(message) from error
