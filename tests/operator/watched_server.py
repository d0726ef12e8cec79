"""An API server that kopf can watch. Its watches can fall silent while lists answer, and its lists be refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.operator.lease_server import LeaseServer, line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.operator.api_server import Name

Body = dict[str, Any]

#: How often a watch looks for what has changed, in seconds.
_LOOK_SECONDS = 0.02


def _kind(kind: str, plural: str, *, namespaced: bool = True) -> Body:
    verbs = ["get", "list", "watch", "patch"]
    return {"kind": kind, "name": plural, "singularName": kind.lower(), "namespaced": namespaced, "verbs": verbs}


def _group(name: str, version: str) -> Body:
    return {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}


#: What there is in the cluster, as far as kopf asks.
_DISCOVERY: dict[str, Body] = {
    "/api": {"versions": ["v1"]},
    "/api/v1": {"resources": [_kind("Pod", "pods"), _kind("Namespace", "namespaces", namespaced=False)]},
    "/apis": {"groups": [_group("pgqrs.io", "v1alpha1"), _group("apiextensions.k8s.io", "v1")]},
    "/apis/pgqrs.io/v1alpha1": {
        "resources": [_kind("PgqrsQueue", "pgqrsqueues"), _kind("PgqrsWorker", "pgqrsworkers")]
    },
    "/apis/apiextensions.k8s.io/v1": {
        "resources": [_kind("CustomResourceDefinition", "customresourcedefinitions", namespaced=False)]
    },
}
#: What the operator watches.
WATCHED = frozenset({"pgqrsqueues", "pgqrsworkers", "pods"})


@dataclass
class WatchedServer(LeaseServer):
    """Objects, of which lists and watches tell, and one Lease."""

    #: Watches stay open, and nothing comes any more.
    silent: bool = False
    #: Nobody gets a list of what is watched.
    lists_refused: bool = False
    #: How many lists were refused.
    refused: int = 0
    #: How many watches began, by what they show.
    begun: Counter[str] = field(default_factory=Counter)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in _DISCOVERY:
            return web.json_response(_DISCOVERY[request.path])
        _, plural, name = self._parts(request.path)
        if request.method != "GET" or name or plural not in WATCHED:
            return await super()._answer(request)
        if request.query.get("watch"):
            return await self._show(request, plural)
        if self.lists_refused:
            self.refused += 1
            return web.json_response({"message": "refused by the test"}, status=503)
        return await super()._answer(request)

    async def _show(self, request: web.Request, plural: str) -> web.StreamResponse:
        """Show what changes from the version of a list on, until the client goes away."""
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        self.begun[plural] += 1
        shown = {name: body for name, body in self.objects.items() if _version(body) <= since}
        while not self._ended.is_set() and request.transport is not None:
            if not self.silent:
                for event in list(self._changes(plural, shown)):
                    await response.write(line(event))
            await asyncio.sleep(_LOOK_SECONDS)
        return response

    def _changes(self, plural: str, shown: dict[Name, Body]) -> Iterator[Body]:
        """Give what differs from what was shown, and note it as shown."""
        for name in [name for name in shown if name not in self.objects]:
            body = shown.pop(name)
            version = {"resourceVersion": str(next(self._versions))}
            if name[0] == plural:
                yield {"type": "DELETED", "object": {**body, "metadata": {**body["metadata"], **version}}}
        for name, body in self.objects.items():
            before = shown.get(name)
            if name[0] == plural and (before is None or _version(before) < _version(body)):
                shown[name] = body
                yield {"type": "MODIFIED" if before else "ADDED", "object": body}


def _version(body: Body) -> int:
    return int(body["metadata"]["resourceVersion"])
