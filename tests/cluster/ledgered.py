"""A shop whose consumers keep a ledger, and what can be asked of it while pods come and go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.shop import Shop, eventually
from tests.cluster.workloads import config
from tests.support.cluster.commands import tail
from tests.support.ledger import TABLE, Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable

_LINES_SHOWN = 60

_RUNNING = """
SELECT coalesce(json_object_agg(pod_uid || '/' || container, handlers), '{}') FROM (
    SELECT pod_uid, container, count(*) AS handlers FROM ledger WHERE ended_at IS NULL GROUP BY pod_uid, container) r
"""
_WORK = """
SELECT json_build_object(
    'began', count(*), 'ended', count(ended_at),
    'redelivered', count(*) FILTER (WHERE EXISTS (
        SELECT FROM ledger a WHERE a.message_id = e.message_id AND a.started_at > e.started_at)))
FROM ledger e WHERE pod_uid = '%s'
"""
_WORKERS = """
SELECT coalesce(json_agg(json_build_object(
    'id', id, 'status', status, 'reason', stop_reason, 'terminating', terminating, 'container', container,
    'handled', (SELECT count(*) FROM ledger WHERE worker_id = w.id AND ended_at IS NOT NULL)) ORDER BY id), '[]')
FROM pgqrs_workers w WHERE pod_uid = '%s'
"""


@dataclass(frozen=True, slots=True)
class Work:
    """What the handlers of one pod did."""

    began: int
    ended: int
    #: Deliveries of this pod's messages that came after the pod's own.
    redelivered: int


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker of one pod as the database has it."""

    id: int
    status: str
    reason: str | None
    terminating: bool
    container: str | None
    #: Messages that its handlers finished.
    handled: int


class LedgeredShop(Shop):
    """One namespace with one database, which has a ledger."""

    tables = (*Shop.tables, "ledger")
    _followers: tuple[tuple[str, Path, subprocess.Popen[bytes]], ...] = ()

    def create(self, *, secret: bool = True) -> None:
        """Make namespace, database, Secret, ledger, and the code of the apps."""
        super().create(secret=secret)
        self.query(TABLE)
        self.apply(config())

    def remove(self) -> None:
        """Let the namespace go, with pods that need not end well."""
        for _, path, follower in self._followers:
            follower.kill()
            follower.wait()
            path.unlink()
        self._followers = ()
        super().remove()
        self.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")

    # -- pods

    def start(self, *bodies: dict[str, Any], within: float = 90.0) -> None:
        """Apply bare pods and wait until they are ready."""
        self.apply(*bodies)
        self.wait_ready(*(body["metadata"]["name"] for body in bodies), within=within)

    def wait_ready(self, *pods: str, within: float = 90.0) -> None:
        """Wait until pods are ready, and keep what they say for a failure's report."""
        self.kubectl(
            *("wait", "--for=condition=Ready", f"--timeout={within:g}s", *(f"pod/{pod}" for pod in pods)),
            timeout=within + 10.0,
        )
        self.follow(*pods)

    def follow(self, *pods: str) -> None:
        """Keep what the containers of pods say: with a deleted pod it would be gone."""
        environment = {**os.environ, **self.installation.cluster.environment}
        program = shutil.which("kubectl", path=environment["PATH"]) or "kubectl"
        for pod in pods:
            handle, name = tempfile.mkstemp(prefix=f"{pod}-", suffix=".log")
            with os.fdopen(handle, "wb") as output:
                follower = subprocess.Popen(
                    [program, "-n", self.namespace, "logs", pod, "--follow", "--all-containers", "--prefix"],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            self._followers += ((pod, Path(name), follower),)

    def uid(self, pod: str) -> str:
        """Give the uid of a pod; empty while there is none."""
        return str(self.get("pod", pod).get("metadata", {}).get("uid", ""))

    def uids(self, pods: Iterable[str]) -> dict[str, str]:
        """Give the uids of pods that exist, by their names."""
        found = {body["metadata"]["name"]: str(body["metadata"]["uid"]) for body in self.items("pods")}
        return {pod: found[pod] for pod in pods}

    def left(self, uids: Iterable[str]) -> set[str]:
        """Give those of these uids whose pods the API server knows."""
        return set(uids) & {body["metadata"]["uid"] for body in self.items("pods")}

    def wait_gone(self, uids: Iterable[str], *, within: float) -> None:
        """Wait until pods are gone from the API server."""
        wanted = set(uids)
        eventually("the pods are gone", lambda: not self.left(wanted), within=within)

    # -- queues and messages

    def patient_queues(self, *names: str) -> None:
        """Declare queues where nobody gets a message because a lease or a heartbeat ran out, and wait for them."""
        for name in names:
            self.declare(name, leaseDuration="10m", heartbeatTimeout="10m")
        for name in names:
            self.reason("InSync", name=name, within=30.0)

    def send_to(self, queue: str, count: int, **payload: Any) -> None:
        """Put messages with this payload into a queue; `apps/worker.py` says what it may hold."""
        text = json.dumps(payload).replace("'", "''")
        self.query(
            f"INSERT INTO pgqrs_messages (queue_id, payload) SELECT q.id, '{text}' "
            f"FROM pgqrs_queues q, generate_series(1, {count}) WHERE q.queue_name = '{queue}'"
        )

    def send_together(self, queue: str, payloads: Iterable[dict[str, Any]]) -> None:
        """Put messages into a queue in this order, all at the same moment."""
        text = json.dumps(list(payloads)).replace("'", "''")
        self.query(
            "INSERT INTO pgqrs_messages (queue_id, payload) SELECT q.id, p.payload FROM pgqrs_queues q, "
            f"jsonb_array_elements('{text}'::jsonb) WITH ORDINALITY AS p (payload, number) "
            f"WHERE q.queue_name = '{queue}' ORDER BY p.number"
        )

    def wait_done(self, queue: str, *, within: float) -> None:
        """Wait until no message of a queue is left to be handled."""

        def done() -> bool:
            progress = self.ledger(queue).progress()
            return not progress["ready"] and not progress["leased"]

        eventually(f"the messages of {queue} are done", done, within=within)

    # -- the ledger

    def ledger(self, queue: str) -> Ledger:
        """Give the ledger of a queue."""
        return Ledger(self.query, queue=queue)

    def running(self) -> dict[str, int]:
        """Count the handlers that began and did not end, by `POD-UID/CONTAINER`."""
        found: dict[str, int] = json.loads(self.query(_RUNNING))
        return found

    def wait_at_work(self, uids: Iterable[str], *, within: float = 30.0) -> None:
        """Wait until handlers run in each of these pods."""
        wanted = set(uids)

        def at_work() -> bool:
            return wanted <= {key.partition("/")[0] for key in self.running()}

        eventually("handlers run in every pod", at_work, within=within)

    def work(self, uid: str) -> Work:
        """Tell what the handlers of a pod did."""
        return Work(**json.loads(self.query(_WORK % uid)))

    def workers(self, uid: str) -> list[WorkerRow]:
        """Give the workers of a pod, the oldest first."""
        return [WorkerRow(**row) for row in json.loads(self.query(_WORKERS % uid))]

    def wait_stopped(self, uid: str, *, within: float = 15.0) -> list[WorkerRow]:
        """Wait until all workers of a pod are stopped, and give them."""

        def stopped() -> list[WorkerRow] | None:
            found = self.workers(uid)
            return found if all(worker.status == "stopped" for worker in found) else None

        return eventually(f"the workers of pod {uid} are stopped", stopped, within=within)

    # -- for people

    def diagnosis(self) -> str:
        """Give what is useful after a failure, also what pods said that are gone."""
        said = [super().diagnosis()]
        for pod, path, _ in self._followers:
            said.append(f"--- {pod} said\n{tail(path.read_text(errors='replace'), _LINES_SHOWN)}")
        return "\n".join(said)
