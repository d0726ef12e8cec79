"""Answers autoscalers: how much there is to do in a queue, as JSON, as KEDA's `metrics-api` trigger reads it.

The answer is what was counted last, so no request costs a statement. Only the leader counts; another replica sends who
asks on to it. An answer is never a guess: where nothing recent is known it is an error, by which an autoscaler leaves
everything as it is.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from pgqrs_operator.backlogs import STALE_SECONDS, UnknownQueueError
from pgqrs_operator.facts import Key
from pgqrs_operator.resources.common import is_object_name

if TYPE_CHECKING:
    from pgqrs_operator.backlogs import Backlog, Backlogs

PATH = "/scale/{namespace}/{queue}"
#: Marks a request that a follower has sent on, so that two that take each other for the leader do not do it for ever.
_SENT_ON = "sentOn"
_IPV4 = 4


class Leader(Protocol):
    """Who of several replicas acts."""

    @property
    def leads(self) -> bool:
        """Whether this one does."""

    @property
    def leader_address(self) -> str | None:
        """Where the one that does is, if that is known."""


class Scaling:
    """Answers for all queues."""

    def __init__(self, backlogs: Backlogs, leader: Leader, port: int) -> None:
        """Take what there is to tell.

        Args:
            backlogs: the numbers.
            leader: who has them.
            port: where every replica listens.
        """
        self._backlogs = backlogs
        self._leader = leader
        self._port = port

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request.

        Raises:
            web.HTTPTemporaryRedirect: another replica knows.
        """
        key = Key(request.match_info["namespace"], request.match_info["queue"])
        if not (is_object_name(key.namespace) and is_object_name(key.name)):
            return _error(404, "Not a name of a PgqrsQueue; the path is /scale/NAMESPACE/NAME.")
        if not self._leader.leads:
            return self._from_leader(key, request)
        try:
            backlog = self._backlogs.ask(key)
        except UnknownQueueError:
            return _error(404, f"There is no PgqrsQueue {key}; the path is /scale/NAMESPACE/NAME.")
        if backlog is None:
            text = f"PgqrsQueue {key} was not counted in the last {STALE_SECONDS:.0f} s; its conditions say why."
            return _error(503, text)
        return web.json_response(told(backlog))

    def _from_leader(self, key: Key, request: web.Request) -> web.Response:
        host = _host(self._leader.leader_address)
        if host is None or _SENT_ON in request.query:
            return _error(503, "This replica does not lead, and does not know who does; try again.")
        location = f"http://{host}:{self._port}/scale/{key.namespace}/{key.name}?{_SENT_ON}=true"
        raise web.HTTPTemporaryRedirect(location)


def _host(address: str | None) -> str | None:
    """Write an address as URLs do; what is none, whoever wrote it into the Lease, leads nowhere."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    return str(found) if found.version == _IPV4 else f"[{found}]"


def told(backlog: Backlog) -> dict[str, float]:
    """Give what an autoscaler is told of a queue."""
    counts = backlog.counts
    ready, leased = counts.messages.ready, counts.messages.leased
    oldest = counts.oldest.total_seconds() if counts.oldest is not None else 0.0
    return {
        "depth": ready,
        "inFlight": leased,
        "total": ready + leased,
        "delayed": counts.messages.delayed,
        "oldestReadySeconds": round(oldest, 3),
        "ageSeconds": round(backlog.age, 3),
    }


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
