"""Many queues and workers that are declared, changed and deleted: what was declared last, and what differs from it."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.cluster.shop import in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.cluster.direct import Body, Direct
    from tests.cluster.shop import Shop

QUEUES = "pgqrsqueues"
WORKERS = "pgqrsworkers"
#: The queue that all workers serve; it stays.
STEADY = "steady"
_PARALLEL = 8
_CREATED, _NOT_FOUND = 409, 404
_API_VERSION = "pgqrs.io/v1alpha1"
#: What a worker's row says, and what its resource says, by the declared state.
_STATES = {"Ready": ("ready", "Working"), "Suspended": ("suspended", "Suspended")}
_ROWS = """
SELECT json_build_object(
    'queues', (SELECT coalesce(json_object_agg(queue_name, json_build_object(
        'maxReads', read_limit, 'paused', paused, 'owned', owner IS NOT NULL)), '{}') FROM pgqrs_queues),
    'workers', (SELECT coalesce(json_object_agg(hostname, status), '{}') FROM pgqrs_workers WHERE pod_uid IS NULL))
"""


class Declared:
    """What one namespace declares; a name that was deleted is not used again."""

    def __init__(self, shop: Shop, api: Direct, *, finalizers: tuple[str, ...] = ()) -> None:
        """Take where to declare it.

        Args:
            shop: the namespace.
            api: the way to its API server.
            finalizers: of others than the operator, which every resource begins with.
        """
        self._shop = shop
        self._api = api
        self._finalizers = finalizers
        self.queues: dict[str, Body] = {}
        self.workers: dict[str, str] = {}
        #: How often each queue was declared.
        self.changes: Counter[str] = Counter()
        self._retained: set[str] = set()
        self._removed: set[str] = set()
        self._ended: set[str] = set()

    # -- declaring; each waits until the API server has it

    def together(self, changes: Iterable[Callable[[], None]]) -> None:
        """Declare several things at the same time."""
        with ThreadPoolExecutor(_PARALLEL) as threads:
            for done in [threads.submit(change) for change in changes]:
                done.result()

    def first(self, name: str, **spec: object) -> None:
        """Declare the first queue, which brings the tables, and wait until it is there."""
        self._shop.ready_queue(name, **spec)
        self.changes[name] += 1
        self.queues[name] = {"maxReads": 5, "paused": False, **spec}

    def queue(self, name: str, **spec: object) -> None:
        """Declare a queue, or change what is declared of it."""
        self.changes[name] += 1
        if name in self.queues:
            self._api.insist("PATCH", self._api.path(QUEUES, name), {"spec": spec})
        else:
            self._make(QUEUES, "PgqrsQueue", name, spec)
        self.queues[name] = {**self.queues.get(name, {"maxReads": 5, "paused": False}), **spec}

    def drop_queue(self, name: str) -> None:
        """Delete a queue's resource."""
        self._api.insist("DELETE", self._api.path(QUEUES, name), done=_NOT_FOUND)
        spec = self.queues.pop(name)
        (self._removed if spec.get("deletionPolicy") == "Delete" else self._retained).add(name)

    def enrol(self, names: Iterable[str]) -> None:
        """Register workers, as processes outside of the cluster do; they are never silent while a test lasts."""
        values = ", ".join(f"('{name}:1')" for name in names)
        self._shop.query(
            f"INSERT INTO pgqrs_workers (name, queue_id) SELECT v.name, q.id FROM (VALUES {values}) v (name), "
            f"pgqrs_queues q WHERE q.queue_name = '{STEADY}'"
        )

    def worker(self, name: str, state: str) -> None:
        """Declare the state of a worker that is enrolled, or change it."""
        if name in self.workers:
            self._api.insist("PATCH", self._api.path(WORKERS, name), {"spec": {"state": state}})
        else:
            spec = {"queueRef": {"name": STEADY}, "hostname": name, "port": 1, "state": state}
            self._make(WORKERS, "PgqrsWorker", name, spec)
        self.workers[name] = state

    def drop_worker(self, name: str) -> None:
        """Delete a worker's resource, which stops the worker."""
        self._api.insist("DELETE", self._api.path(WORKERS, name), done=_NOT_FOUND)
        del self.workers[name]
        self._ended.add(name)

    def _make(self, plural: str, kind: str, name: str, spec: Body) -> None:
        metadata = {"name": name, "finalizers": list(self._finalizers)}
        body = {"apiVersion": _API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
        self._api.insist("POST", self._api.path(plural), body, done=_CREATED)

    # -- what came of it

    def wait_converged(self, *, within: float) -> None:
        """Wait until rows and resources are as declared; what is not fails the test."""
        in_time(lambda: not self.differences(), within=within)
        assert self.differences() == []

    def wait_rows(self, *, within: float) -> None:
        """Wait until the rows are as declared, whatever the resources say; what is not fails the test."""
        in_time(lambda: not list(self._differing_rows()), within=within)
        assert list(self._differing_rows()) == []

    def differences(self) -> list[str]:
        """Say what differs from what is declared."""
        return [
            *self._differing_rows(),
            *self._differing(QUEUES, dict.fromkeys(self.queues, "InSync")),
            *self._differing(WORKERS, {name: _STATES[state][1] for name, state in self.workers.items()}),
        ]

    def _differing_rows(self) -> Iterator[str]:
        rows = json.loads(self._shop.query(_ROWS))
        queues, workers = rows["queues"], rows["workers"]
        for name, spec in self.queues.items():
            wanted = {"maxReads": spec["maxReads"], "paused": spec["paused"], "owned": True}
            if queues.get(name) != wanted:
                yield f"row of queue {name}: {queues.get(name)}, declared is {wanted}"
        for name in self._retained:
            if name not in queues or queues[name]["owned"]:
                yield f"row of queue {name}, which was left: {queues.get(name)}"
        for name in self._removed & queues.keys():
            yield f"row of queue {name}, which was to be deleted: {queues[name]}"
        for name, state in self.workers.items():
            if workers.get(name) != _STATES[state][0]:
                yield f"row of worker {name}: {workers.get(name)}, declared is {state}"
        for name in self._ended:
            if workers.get(name) != "stopped":
                yield f"row of worker {name}, which was deleted: {workers.get(name)}"

    def _differing(self, plural: str, reasons: dict[str, str]) -> Iterator[str]:
        found = {body["metadata"]["name"]: body for body in self._api.items(plural) if not _of_pod(body)}
        for name in reasons.keys() - found.keys():
            yield f"{plural}/{name} is missing"
        for name, body in found.items():
            if name not in reasons or "deletionTimestamp" in body["metadata"]:
                yield f"{plural}/{name} is still there, with {body['metadata'].get('finalizers')}"
                continue
            status, generation = body.get("status", {}), body["metadata"]["generation"]
            conditions: list[Body] = status.get("conditions", [])
            ready: Body = next((one for one in conditions if one["type"] == "Ready"), {})
            said = (ready.get("status"), ready.get("reason"), ready.get("observedGeneration"))
            if said != ("True", reasons[name], generation) or status["observedGeneration"] != generation:
                yield f"{plural}/{name} says {said} of generation {generation}"

    # -- Events

    def events(self) -> Counter[tuple[str, str]]:
        """Count the operator's Events about queues, by name and reason."""
        return Counter(
            (event["involvedObject"]["name"], event["reason"])
            for event in self._shop.items("events")
            if event["involvedObject"]["kind"] == "PgqrsQueue"
        )

    def warnings(self) -> list[str]:
        """Give what the operator warned of."""
        return [
            f"{event['involvedObject']['name']}: {event['reason']}: {event['message']}"
            for event in self._shop.items("events")
            if event["type"] == "Warning" and event.get("source", {}).get("component") == "pgqrs-operator"
        ]


def _of_pod(body: Body) -> bool:
    """Tell whether the operator made it for a pod."""
    return any(owner["kind"] == "Pod" for owner in body["metadata"].get("ownerReferences", ()))
