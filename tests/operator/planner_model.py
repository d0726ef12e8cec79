"""A cluster in memory, with an operator whose planner is the real one: for properties of the planner."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pgqrs_operator import declarations, pods
from pgqrs_operator.details import queue_details
from pgqrs_operator.facts import Desired, Key, Observed
from pgqrs_operator.plan import plan
from pgqrs_operator.settings import Settings
from pgqrs_operator.store import read_queue, read_worker
from tests.operator.planner_rows import POD_NAMES, Rows

if TYPE_CHECKING:
    import random

    from pgqrs.fleet import Fleet
    from pgqrs_operator.facts import Plan

SETTINGS = Settings()
#: More passes than any plan needs to become empty.
_MOST_PASSES = 8


@dataclass
class Cluster:
    """Resources as the API server holds them, pods, and the rows."""

    rows: Rows = field(default_factory=Rows)
    queues: dict[Key, dict[str, Any]] = field(default_factory=dict)
    workers: dict[Key, dict[str, Any]] = field(default_factory=dict)
    #: `running`, `ending` or `ended`, by uid; the others have left at most their rows, and nobody knows why.
    pods: dict[str, str] = field(default_factory=dict)
    #: How many resources were made so far.
    made: int = 0

    def put(self, kind: str, key: Key, spec: dict[str, Any], pod: str | None = None) -> None:
        """Make a resource, or change its specification; one that is being deleted stays as it is."""
        shelf = self.queues if kind == "PgqrsQueue" else self.workers
        body = shelf.get(key)
        if body is None:
            self.made += 1
            owner = {"apiVersion": "v1", "kind": "Pod", "name": POD_NAMES.get(pod or ""), "uid": pod}
            metadata = {
                "namespace": key.namespace,
                "name": key.name,
                "uid": f"{self.made:05}",
                "creationTimestamp": f"2026-01-01T00:00:00.{self.made:05}Z",
                "generation": 1,
                "ownerReferences": [owner] if pod else [],
                "annotations": {},
            }
            shelf[key] = {"kind": kind, "metadata": metadata, "spec": spec}
        elif "deletionTimestamp" not in body["metadata"]:
            body["spec"] = spec

    def facts(self, shuffle: random.Random | None = None) -> tuple[Desired, Observed]:
        """Give what the planner is told, in any order."""
        queues = [read_queue(body) for body in self.queues.values()]
        workers = [read_worker(body) for body in self.workers.values()]
        living = [_pod(uid, ending=state == "ending") for uid, state in self.pods.items() if state != "ended"]
        ended = {uid: "pod deleted" for uid, state in self.pods.items() if state == "ended"}
        for things in (queues, workers, living):
            if shuffle is not None:
                shuffle.shuffle(things)
        desired = declarations.desired(queues, workers, living, SETTINGS)
        found = self.rows.observe(desired)
        declared = {(worker.key.namespace, worker.pod_uid) for worker in desired.workers}
        lost = {
            row.info.pod_uid: row
            for row in found.workers
            if row.info.pod_uid in ended and ("shop", row.info.pod_uid) not in declared
        }
        existing = {SETTINGS.owner(*key) for key in self.queues}
        desired = replace(
            desired,
            workers=(*desired.workers, *(declarations.lost_worker(row, SETTINGS) for row in lost.values())),
            others=declarations.foreign_owners(found, desired.queues, existing, SETTINGS),
        )
        return desired, Observed(fleet=found, ended=ended)

    def settle(self, shuffle: random.Random | None = None) -> Plan:
        """Let the operator work until it has nothing left to do, and let the resources go that may."""
        while True:
            planned = self._converge(shuffle)
            queues = [key for key in planned.done_queues if self._goes(self.queues[key])]
            workers = [key for key, body in self.workers.items() if self._worker_goes(key, body, planned)]
            for key in queues:
                del self.queues[key]
            for key in workers:
                del self.workers[key]
            if not (queues or workers):
                return planned

    def _converge(self, shuffle: random.Random | None) -> Plan:
        for _ in range(_MOST_PASSES):
            desired, observed = self.facts(shuffle)
            planned = plan(desired, observed)
            assert not planned.defects
            if not planned.actions:
                self._tell(planned, observed.fleet)
                return planned
            self.rows.carry_out(planned.actions)
        raise AssertionError(planned.actions)

    def _tell(self, planned: Plan, found: Fleet) -> None:
        """Write what is told of the rows of queues into their statuses."""
        for key, body in self.queues.items():
            row, told = found.queues.get(read_queue(body).queue_name), body.get("status", {})
            body["status"] = queue_details(row, None, planned.queues[key], told=told)

    def _goes(self, body: dict[str, Any]) -> bool:
        return "deletionTimestamp" in body["metadata"]

    def _worker_goes(self, key: Key, body: dict[str, Any], planned: Plan) -> bool:
        resource = read_worker(body)
        if self._goes(body) and not resource.frozen and self.pods.get(resource.pod_uid or "") == "running":
            # It mirrors a pod that goes on.
            return True
        return key in planned.done_workers and (self._goes(body) or self.pods.get(resource.pod_uid or "") == "ended")

    def copied(self) -> Cluster:
        """Give another one that is the same."""
        return copy.deepcopy(self)


def _pod(uid: str, *, ending: bool) -> pods.Pod:
    metadata = {
        "name": POD_NAMES[uid],
        "namespace": "shop",
        "uid": uid,
        "creationTimestamp": f"2026-01-01T00:00:00.0000{uid[-1]}Z",
        "labels": {"pgqrs.io/queue": "a"},
        "annotations": {"pgqrs.io/injected": "v1"},
        **({"deletionTimestamp": "2026-01-02T00:00:00Z"} if ending else {}),
    }
    return pods.read({"metadata": metadata, "spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running"}})
