"""The API server by HTTP, for tests that write often, beside others, or while it is away: kubectl hides all of that."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

Body = dict[str, Any]

#: What a status of 0 means here: nobody answered.
SILENCE = 0
_GROUP = "/apis/pgqrs.io/v1alpha1"
#: Of one request.
_SECONDS = 5.0
#: How long an API server may be away.
_PATIENCE = 90.0
_PAUSE = 0.2
_FINE = range(200, 300)
_CONFLICT = 409
#: What another try may mend: too many conflicts at once, too many requests, and what the server is to blame for.
_PASSING = {SILENCE, _CONFLICT, 429, *range(500, 600)}


class Direct:
    """Resources of ours in one namespace."""

    def __init__(self, port: int, namespace: str) -> None:
        """Take the way there.

        Args:
            port: of a `kubectl proxy` on 127.0.0.1.
            namespace: where the resources are.
        """
        self._port = port
        self._namespace = namespace

    def path(self, plural: str, name: str = "") -> str:
        """Give the path of a resource, or of all of a kind."""
        return f"{_GROUP}/namespaces/{self._namespace}/{plural}" + (f"/{name}" if name else "")

    def pod(self, name: str) -> str:
        """Give the path of a pod."""
        return f"/api/v1/namespaces/{self._namespace}/pods/{name}"

    def ask(self, method: str, path: str, body: Body | None = None) -> tuple[int, Body]:
        """Send one request; give the status and what was answered. A PATCH is a merge patch."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_SECONDS)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": kind, "Accept": "application/json"})
            response = connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException):
            return SILENCE, {}
        finally:
            connection.close()
        try:
            answer: Body = json.loads(said)
        except ValueError:
            # The proxy's own words about a server that is away.
            answer = {"message": said.decode(errors="replace")}
        return response.status, answer

    def insist(self, method: str, path: str, body: Body | None = None, *, done: int = SILENCE) -> Body:
        """Send a request until it is carried out, however often the server is away; give the last answer.

        Args:
            method: of HTTP.
            path: of the resource.
            body: what to send.
            done: a status that says that an earlier try, whose answer was lost, has done it.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            status, answer = self.ask(method, path, body)
            if status in _FINE or (done and status == done):
                return answer
            assert status in _PASSING, f"{method} {path}: {status}: {answer.get('message')}"
            assert time.monotonic() < deadline, f"{method} {path}: still {status} after {_PATIENCE:g} s"
            time.sleep(_PAUSE)

    def items(self, plural: str) -> list[Body]:
        """List all resources of a kind."""
        found: list[Body] = self.insist("GET", self.path(plural))["items"]
        return found
