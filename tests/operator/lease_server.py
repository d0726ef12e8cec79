"""An API server with a Lease: written only on condition, watched, and troubled for one candidate at a time."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.operator.api_server import ApiServer

#: A candidate says who it is by this header; a process by its user agent.
CANDIDATE = "X-Candidate"
#: Faults beside statuses of HTTP: no answer at all, and an answer that is lost after the request was carried out.
SWALLOWED = "swallowed"
ANSWER_LOST = "answer lost"
_CONFLICT = 409

Body = dict[str, Any]


@dataclass
class LeaseServer(ApiServer):
    """Objects, and one Lease."""

    lease: Body | None = None
    #: What goes wrong for a candidate with the Lease: a status or one of the two above.
    faults: dict[str, int | str] = field(default_factory=dict)
    #: Requests for the Lease, whatever became of them.
    attempts: int = 0
    #: How often the Lease was read by each candidate.
    reads: dict[str, int] = field(default_factory=dict)
    #: How often each listed the queues.
    lists: dict[str, int] = field(default_factory=dict)
    #: Who held the Lease one after the other; None where it was given back.
    holders: list[str | None] = field(default_factory=list)
    #: When the Lease last changed hands, and when it was last written, by the monotonic clock.
    taken_at: float = 0.0
    written_at: float = 0.0
    #: Who wrote which other object, by method and path.
    writes: list[tuple[str, str, str]] = field(default_factory=list)
    #: Watches begin, and then nothing comes any more.
    deaf: bool = False
    watches: int = 0
    _watchers: set[asyncio.Queue[Body]] = field(default_factory=set)
    _lease_versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def aclose(self) -> None:
        self._ended.set()
        for watcher in self._watchers:
            watcher.put_nowait({})
        await super().aclose()

    # -- what a test does to it

    @property
    def holder(self) -> str | None:
        found: str | None = (self.lease or {}).get("spec", {}).get("holderIdentity")
        return found

    def write_lease(self, **spec: Any) -> None:
        """Write the Lease as somebody else; None takes a field away."""
        written = {**(self.lease or {}).get("spec", {}), **spec}
        self._put(
            {"metadata": {"name": "l"}, "spec": {key: value for key, value in written.items() if value is not None}}
        )

    def annotate_lease(self, value: str) -> None:
        """Change something of the Lease that is nobody's business."""
        assert self.lease is not None
        self._put({**self.lease, "metadata": {**self.lease["metadata"], "annotations": {"note": value}}})

    # -- HTTP

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        who = str(request.headers.get(CANDIDATE) or request.headers.get("User-Agent"))
        if "/leases" not in request.path:
            if request.method != "GET":
                self.writes.append((who, request.method, request.path))
            elif request.path.endswith("/pgqrsqueues") and not request.query.get("watch"):
                self.lists[who] = self.lists.get(who, 0) + 1
            return await super()._answer(request)
        self.attempts += 1
        fault = self.faults.get(who)
        if fault == SWALLOWED:
            await self._ended.wait()
        # Who reads has no conflict.
        elif isinstance(fault, int) and (fault != _CONFLICT or request.method != "GET"):
            return _said(fault)
        if request.method == "GET" and request.query.get("watch"):
            return await self._watch(request)
        if request.method == "GET":
            self.reads[who] = self.reads.get(who, 0) + 1
            return _said(404) if self.lease is None else web.json_response(self.lease)
        answer = self._written(request.method, await request.json())
        if fault == ANSWER_LOST:
            await self._ended.wait()
        return answer

    def _written(self, method: str, body: Body) -> web.Response:
        """Write the Lease as a real server does: only in the right form, and only if nobody else wrote meanwhile."""
        spec = body["spec"]
        for key in ("acquireTime", "renewTime"):
            datetime.strptime(spec[key], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert isinstance(spec["leaseDurationSeconds"], int)
        assert spec["leaseDurationSeconds"] > 0
        assert isinstance(spec["leaseTransitions"], int)
        if method == "POST":
            if self.lease is not None:
                return _said(_CONFLICT)
        elif self.lease is None:
            return _said(404)
        elif body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return _said(_CONFLICT)
        self._put(body)
        return web.json_response(self.lease)

    def _put(self, body: Body) -> None:
        version = str(next(self._lease_versions))
        before, self.written_at = self.holder, time.monotonic()
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
        if self.holder != before:
            self.taken_at = self.written_at
            self.holders.append(self.holder)
        for watcher in self._watchers:
            watcher.put_nowait({"type": "MODIFIED", "object": self.lease})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        assert request.query["fieldSelector"].startswith("metadata.name=")
        self.watches += 1
        response = web.StreamResponse()
        await response.prepare(request)
        events: asyncio.Queue[Body] = asyncio.Queue()
        self._watchers.add(events)
        try:
            if self.lease is not None:
                await response.write(line({"type": "ADDED", "object": self.lease}))
            while not self._ended.is_set():
                event = await events.get()
                if event and not self.deaf:
                    await response.write(line(event))
        finally:
            self._watchers.discard(events)
        return response


def line(event: Body) -> bytes:
    """Give an event as a watch shows it."""
    return json.dumps(event).encode() + b"\n"


def _said(status: int) -> web.Response:
    return web.json_response({"message": "said by the test"}, status=status)
