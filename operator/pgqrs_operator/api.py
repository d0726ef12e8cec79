"""The few calls to the API server that the operator makes, as JSON in and out; each has a deadline.

Transport, TLS and credentials are those of the `kubernetes` package, its asyncio half; its thousands of models are left
alone, because a list of pods turned into objects costs ten times the memory and is thrown away at once.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import aiohttp

from pgqrs_operator.names import DELETION_COST_ANNOTATION, GROUP, QUEUE_LABEL, VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from kubernetes.aio.client.api_client import ApiClient

_TIMEOUT = 10.0
_LIST_TIMEOUT = 60.0
_PAGE = 500
_SUCCESS = range(200, 300)
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class ApiError(Exception):
    """The API server could not be reached or refused a call."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Say what happened; `status` is the one of HTTP, or None where there was no answer."""
        super().__init__(message)
        self.status = status


class NotFoundError(ApiError):
    """The object is not there (404)."""


class ConflictError(ApiError):
    """The object was changed by somebody else in the meantime, or exists already (409)."""


class BadNameError(ApiError):
    """A name that no object can have; nobody was asked."""


class Kubernetes:
    """An API server."""

    def __init__(self, client: ApiClient) -> None:
        """Take a client that somebody else opens and closes."""
        self._client = client

    async def _call(
        self,
        method: str,
        where: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = _TIMEOUT,
    ) -> dict[str, Any]:
        headers = {"Accept": accept, "Content-Type": content_type, **self._client.default_headers}
        url = self._client.configuration.host + where + (f"?{urlencode(query)}" if query else "")
        try:
            async with asyncio.timeout(timeout):
                # It may have to read a token that was renewed.
                await self._client.update_params_for_auth(headers, [], ["BearerToken"], where, method, body)
                response = await self._client.rest_client.request(  # type: ignore[no-untyped-call]  # not annotated upstream
                    method, url, headers=headers, body=body
                )
                data = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            message = f"{method} {where}: the API server cannot be reached ({type(error).__name__})"
            raise ApiError(message) from error
        if response.status in _SUCCESS:
            try:
                answer: dict[str, Any] = json.loads(data)
            except ValueError as error:
                message = f"{method} {where}: the answer is not JSON"
                raise ApiError(message, response.status) from error
            return answer
        kinds = {404: NotFoundError, 409: ConflictError}
        message = f"{method} {where}: HTTP {response.status}: {_explanation(data)}"
        raise kinds.get(response.status, ApiError)(message, response.status)

    async def _pages(
        self, where: str, query: Mapping[str, str] | None = None, accept: str = "application/json"
    ) -> AsyncIterator[Listing]:
        """Read a list as it is now (no resourceVersion: a quorum read), page by page; all have one version."""
        more = dict(query or {}, limit=str(_PAGE))
        while True:
            page = await self._call("GET", where, query=more, accept=accept, timeout=_LIST_TIMEOUT)
            metadata = page.get("metadata", {})
            yield Listing(page.get("items") or [], str(metadata.get("resourceVersion", "")))
            if not metadata.get("continue"):
                return
            more["continue"] = metadata["continue"]

    async def resource_pages(self, plural: str, kind: str, namespace: str | None) -> AsyncIterator[Listing]:
        """List all resources of one of our kinds, page by page: ten thousand at once are hundreds of megabytes."""
        async for page in self._pages(_resources(plural, namespace)):
            for item in page.items:
                # Items of a list do not say what they are.
                item.setdefault("kind", kind)
            yield page

    async def list_resources(self, plural: str, kind: str, namespace: str | None) -> Listing:
        """List all resources of one of our kinds."""
        return await _together(self.resource_pages(plural, kind, namespace))

    def labelled_pod_pages(self, namespace: str | None) -> AsyncIterator[Listing]:
        """List the pods that carry our label, page by page."""
        whose = ("namespaces", namespace) if namespace else ()
        return self._pages(path("api", "v1", *whose, "pods"), {"labelSelector": QUEUE_LABEL})

    async def list_pod_uids(self, namespace: str) -> set[str]:
        """List the uids of all pods of a namespace, labelled or not."""
        found = await _together(self._pages(_core(namespace, "pods"), accept=_METADATA_ONLY))
        return {item["metadata"]["uid"] for item in found.items}

    async def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
        """Read a pod as it is now.

        Raises:
            NotFoundError: there is none of this name.
        """
        return await self._call("GET", _core(namespace, "pods", name))

    async def set_deletion_cost(self, namespace: str, name: str, *, uid: str, cost: str | None) -> dict[str, Any]:
        """Say what deleting exactly this pod costs its ReplicaSet; None says nothing.

        Raises:
            NotFoundError: it is gone.
            ApiError: another pod has this name by now, or it is not allowed.
        """
        metadata = {"uid": uid, "annotations": {DELETION_COST_ANNOTATION: cost}}
        where, content_type = _core(namespace, "pods", name), "application/merge-patch+json"
        return await self._call("PATCH", where, body={"metadata": metadata}, content_type=content_type)

    async def get_secret(self, namespace: str, name: str) -> dict[str, Any]:
        """Read a Secret.

        Raises:
            NotFoundError: there is none of this name.
        """
        return await self._call("GET", _core(namespace, "secrets", name))

    async def patch_status(self, plural: str, namespace: str, name: str, status: Mapping[str, Any]) -> dict[str, Any]:
        """Merge something into the status of a resource.

        Raises:
            NotFoundError: it is gone.
        """
        where = _resources(plural, namespace, name, "status")
        return await self._call("PATCH", where, body={"status": status}, content_type="application/merge-patch+json")

    async def patch_finalizers(
        self, plural: str, namespace: str, name: str, *, version: int, finalizers: list[str]
    ) -> dict[str, Any]:
        """Set the finalizers of a resource that still has this version.

        Raises:
            NotFoundError: it is gone.
            ConflictError: it has another version by now.
        """
        metadata = {"resourceVersion": str(version), "finalizers": finalizers}
        where = _resources(plural, namespace, name)
        content_type = "application/merge-patch+json"
        return await self._call("PATCH", where, body={"metadata": metadata}, content_type=content_type)

    async def create(self, plural: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a resource.

        Raises:
            ConflictError: there is one of this name.
        """
        return await self._call("POST", _resources(plural, namespace), body=dict(body))

    async def delete(self, plural: str, namespace: str, name: str, *, uid: str) -> None:
        """Delete exactly this resource; a finalizer may keep it for a while.

        Raises:
            NotFoundError: it is gone.
            ConflictError: another one has this name by now.
        """
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        await self._call("DELETE", _resources(plural, namespace, name), body=options)

    async def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        """Set how many pods a Deployment has.

        Raises:
            NotFoundError: there is none of this name.
        """
        await self._call(
            "PATCH",
            path("apis", "apps", "v1", "namespaces", namespace, "deployments", deployment, "scale"),
            body={"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    async def count_pods(self, namespace: str, selector: str) -> int:
        """Count the pods of a label selector, also those that end."""
        return len((await _together(self._pages(_core(namespace, "pods"), {"labelSelector": selector}))).items)

    async def create_event(self, namespace: str, body: Mapping[str, Any]) -> None:
        """Make an Event.

        Raises:
            ConflictError: there is one of this name.
        """
        await self._call("POST", _core(namespace, "events"), body=dict(body))


class Listing:
    """A list of objects, and the version of the cluster that it shows."""

    def __init__(self, items: list[dict[str, Any]], version: str) -> None:
        self.items = items
        self.version = int(version) if version.isascii() and version.isdigit() else 0


async def _together(pages: AsyncIterator[Listing]) -> Listing:
    items: list[dict[str, Any]] = []
    version = 0
    async for page in pages:
        items += page.items
        version = page.version
    return Listing(items, str(version))


def path(*segments: str) -> str:
    """Join names to a path of the API server. Names come from users and from rows, so none may lead elsewhere.

    Raises:
        BadNameError: one is empty, `.` or `..`, or has a `/` or `%` in it, which Kubernetes gives to no object.
    """
    for segment in segments:
        # An HTTP client resolves `..`, and decodes what was quoted, before the server sees it.
        if segment in {"", ".", ".."} or "/" in segment or "%" in segment:
            message = f"{segment!r} is no name of an object"
            raise BadNameError(message)
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def _core(namespace: str, *segments: str) -> str:
    return path("api", "v1", "namespaces", namespace, *segments)


def _resources(plural: str, namespace: str | None, *segments: str) -> str:
    where = () if namespace is None else ("namespaces", namespace)
    return path("apis", GROUP, VERSION, *where, plural, *segments)


def _explanation(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message", ""))[:500]
    except (ValueError, AttributeError):
        return data[:200].decode(errors="replace")
