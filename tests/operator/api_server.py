"""As much of an API server as the operator talks to, over real HTTP: objects in memory, merge patches, finalizers.

It shows what a request really asks for after the client has built and resolved its address.
"""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.merge_patch import merged

if TYPE_CHECKING:
    import asyncio

_KINDS = {"pgqrsqueues": "PgqrsQueue", "pgqrsworkers": "PgqrsWorker", "pods": "Pod", "secrets": "Secret"}
_PLURALS = {kind: plural for plural, kind in _KINDS.items()}
_FINALIZER = "pgqrs.io/finalizer"

Name = tuple[str, str, str]


@dataclass
class ApiServer:
    """The objects of a cluster, by plural, namespace and name."""

    objects: dict[Name, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    #: Method and path of all requests, as they came.
    requests: list[tuple[str, str]] = field(default_factory=list)
    #: The status that requests are answered with whose path ends like this.
    refusals: dict[str, int] = field(default_factory=dict)
    #: While it is there and not set, GET requests of single objects are not answered.
    gate: asyncio.Event | None = None
    port: int = 0
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def aclose(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # -- what a test does to it

    def put(self, kind: str, name: str, *, namespace: str = "shop", **body: Any) -> dict[str, Any]:
        """Make an object, or replace one; ours come with our finalizer."""
        version = next(self._versions)
        metadata = {
            "name": name,
            "namespace": namespace,
            "uid": f"{namespace}-{name}-{version}",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **({"finalizers": [_FINALIZER]} if kind.startswith("Pgqrs") else {}),
            **body.pop("metadata", {}),
            "resourceVersion": str(version),
        }
        made = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **body}
        self.objects[_PLURALS[kind], namespace, name] = made
        return made

    def put_secret(self, dsn: str, *, namespace: str = "shop", name: str = "pgqrs") -> None:
        self.put("Secret", name, namespace=namespace, data={"dsn": base64.b64encode(dsn.encode()).decode()})

    def put_pod(self, name: str, *, namespace: str = "shop", queue: str = "emails", **metadata: Any) -> dict[str, Any]:
        """Make a pod that was injected and runs."""
        running: dict[str, Any] = {"state": {"running": {}}}
        return self.put(
            "Pod",
            name,
            namespace=namespace,
            metadata={"labels": {"pgqrs.io/queue": queue}, "annotations": {"pgqrs.io/injected": "v1"}, **metadata},
            spec={"containers": [{"name": "app"}], "initContainers": [{"name": "pgqrs-sidecar"}]},
            status={
                "phase": "Running",
                "containerStatuses": [{"name": "app", **running}],
                "initContainerStatuses": [{"name": "pgqrs-sidecar", **running}],
            },
        )

    def change(self, kind: str, name: str, *, namespace: str = "shop", **patch: Any) -> None:
        """Merge something into an object."""
        key = _PLURALS[kind], namespace, name
        self.objects[key] = merged(
            merged(self.objects[key], patch), {"metadata": {"resourceVersion": str(next(self._versions))}}
        )

    def delete(self, kind: str, name: str, *, namespace: str = "shop", at: datetime | None = None) -> None:
        """Delete an object as `kubectl delete` does: one with finalizers stays until they are gone."""
        key = _PLURALS[kind], namespace, name
        if self.objects[key]["metadata"].get("finalizers"):
            stamp = (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
            self.change(kind, name, namespace=namespace, metadata={"deletionTimestamp": stamp})
        else:
            del self.objects[key]

    def get(self, kind: str, name: str, *, namespace: str = "shop") -> dict[str, Any] | None:
        return self.objects.get((_PLURALS[kind], namespace, name))

    def reason(self, kind: str, name: str, *, namespace: str = "shop") -> str:
        """Give the reason of the condition Ready, or nothing."""
        found = self.get(kind, name, namespace=namespace) or {}
        conditions = found.get("status", {}).get("conditions", ())
        return "".join(one["reason"] for one in conditions if one["type"] == "Ready")

    def reasons(self) -> list[str]:
        """Give the reasons of all Events."""
        return [event["reason"] for event in self.events]

    # -- HTTP

    async def _answer(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911 - one for each kind of request
        self.requests.append((request.method, request.raw_path.partition("?")[0]))
        await self._held_up(request)
        for end, status in self.refusals.items():
            if request.path.endswith(end):
                return _refusal(status, "refused by the test")
        *_, namespace, plural, name = self._parts(request.path)
        body = await request.json() if request.can_read_body else {}
        if plural == "events":
            return self._event(body)
        if request.method == "GET" and not name:
            return self._list(plural, namespace)
        if request.method == "POST":
            name = body["metadata"]["name"]
            if (plural, namespace, name) in self.objects:
                return _refusal(409, "it exists")
            body = {key: value for key, value in body.items() if key not in {"kind", "apiVersion"}}
            return web.json_response(self.put(_KINDS[plural], name, namespace=namespace, **body))
        key = plural, namespace, name
        if key not in self.objects:
            return _refusal(404, "it is not there")
        if request.method == "PATCH":
            return self._patch(key, body)
        if request.method == "DELETE":
            self.delete(_KINDS[plural], name, namespace=namespace)
        return web.json_response(self.objects.get(key, {}))

    async def _held_up(self, request: web.Request) -> None:
        if self.gate is not None and request.method == "GET" and self._parts(request.path)[2]:
            await self.gate.wait()

    @staticmethod
    def _parts(path: str) -> tuple[str, str, str]:
        """Give namespace, plural and name; a subresource changes nothing here."""
        parts = path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = parts[1] if parts[0] == "namespaces" else ""
        parts = parts[2:] if namespace else parts
        return namespace, parts[0], parts[1] if len(parts) > 1 else ""

    def _list(self, plural: str, namespace: str) -> web.Response:
        items = [item for (kind, where, _), item in self.objects.items() if kind == plural and namespace in {"", where}]
        return web.json_response({"metadata": {"resourceVersion": str(next(self._versions))}, "items": items})

    def _event(self, body: dict[str, Any]) -> web.Response:
        name = body["metadata"].get("name")
        if name and any(event["metadata"].get("name") == name for event in self.events):
            return _refusal(409, "it exists")
        self.events.append(body)
        return web.json_response(body)

    def _patch(self, key: Name, body: dict[str, Any]) -> web.Response:
        found = self.objects[key]
        expected = body.get("metadata", {}).get("resourceVersion")
        if expected not in {None, found["metadata"]["resourceVersion"]}:
            return _refusal(409, "it was changed")
        if body.get("metadata", {}).get("uid") not in {None, found["metadata"]["uid"]}:
            return _refusal(422, "it is another one")
        changed = merged(found, body)
        changed["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[key] = changed
        if changed["metadata"].get("deletionTimestamp") and not changed["metadata"].get("finalizers"):
            del self.objects[key]
        return web.json_response(changed)


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)
