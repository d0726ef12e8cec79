"""A namespace of the test cluster as its team sees it: a Secret, queues, consumers, and what the database says."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from tests.support.cluster.commands import tail
from tests.support.cluster.errors import ClusterError
from tests.support.cluster.looking import look
from tests.support.installation import EXAMPLE, SIDECAR_METRICS_PORT, SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.installation import Installation

T = TypeVar("T")
_POLL_SECONDS = 0.2
#: Of each table, after a failure.
_ROWS_SHOWN = 100
#: A shell waits for its child and leaves SIGTERM alone; and the child can be killed from inside of its container.
IGNORES_SIGTERM = "python app.py; exit $?"
DIES_OF_SIGTERM = "python app.py & app=$!; trap 'kill -9 $app; exit 143' TERM; wait $app"
#: The app is PID 1's child; an image without `pidof` has /proc.
_KILL = """
for process in /proc/[0-9]*; do
    case $(tr '\\0' ' ' < $process/cmdline) in python*app.py*) kill -9 ${process#/proc/} ;; esac
done
"""


def in_time(condition: Callable[[], T | None], *, within: float) -> T | None:
    """Ask until there is an answer, and give it; what was said last when the time is up.

    Args:
        condition: gives something true once it holds.
        within: seconds until it is given up.
    """
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(_POLL_SECONDS)


def eventually(what: str, condition: Callable[[], T | None], *, within: float) -> T:
    """Ask until there is an answer, and give it; no answer in time fails the test.

    Args:
        what: what is waited for, for the failure's text.
        condition: gives something true once it holds.
        within: seconds until it is given up.
    """
    found = in_time(condition, within=within)
    if not found:
        message = f"not within {within:g} s: {what}"
        raise AssertionError(message)
    return found


class Shop:
    """One namespace with one database."""

    #: What is shown of the database after a failure.
    tables: tuple[str, ...] = ("pgqrs_queues", "pgqrs_workers", "pgqrs_messages")

    def __init__(self, installation: Installation, namespace: str) -> None:
        self.installation = installation
        self.namespace = namespace
        self.database = namespace.replace("-", "_")
        self.password = installation.password()
        self.dsn = installation.dsn(self.database, password=self.password)

    # -- its life

    def create(self, *, secret: bool = True) -> None:
        """Make namespace, database and Secret."""
        self.installation.query(f"CREATE DATABASE {self.database}")
        self.installation.cluster.kubectl("create", "namespace", self.namespace)
        if secret:
            self.set_secret({"dsn": self.dsn})

    def remove(self) -> None:
        """Let the namespace go, which takes its time; the database goes with the installation."""
        self.installation.cluster.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl in the namespace."""
        return self.installation.cluster.kubectl("-n", self.namespace, *args, stdin=stdin, timeout=timeout)

    def apply(self, *bodies: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(bodies)}))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Read an object; nothing where there is none."""
        found = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        body: dict[str, Any] = json.loads(found) if found else {}
        return body

    def items(self, kind: str, *args: str) -> list[dict[str, Any]]:
        """List objects."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json", *args))["items"]
        return found

    def set_secret(self, data: dict[str, str], name: str = "pgqrs") -> None:
        """Write the Secret."""
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})

    # -- queues

    def declare(self, name: str = "emails", **spec: Any) -> None:
        """Apply a `PgqrsQueue`."""
        metadata = {"name": name}
        self.apply({"apiVersion": "pgqrs.io/v1alpha1", "kind": "PgqrsQueue", "metadata": metadata, "spec": spec})

    def condition(self, kind: str, name: str, condition: str = "Ready") -> dict[str, Any]:
        """Read a condition; nothing while there is none."""
        found = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((one for one in found if one["type"] == condition), {})

    def reason(self, reason: str, *, kind: str = "pgqrsqueue", name: str = "emails", within: float = 10.0) -> str:
        """Wait until Ready has this reason, and give the message."""

        def found() -> str | None:
            ready = self.condition(kind, name)
            return ready["message"] or "-" if ready.get("reason") == reason else None

        return eventually(f"{kind} {name} says {reason}", found, within=within)

    def ready_queue(self, name: str = "emails", **spec: Any) -> None:
        """Apply a `PgqrsQueue` and wait until it is ready."""
        self.declare(name, **spec)
        self.reason("InSync", name=name, within=20.0)

    # -- consumers

    def deploy(self, *, replicas: int = 1, shell: str = "", drain: int | None = None, **environment: str) -> None:
        """Run the example's Deployment and wait until its pods are ready.

        Args:
            replicas: how many pods.
            shell: runs the app as a child of a shell, by one of the scripts of this module.
            drain: how long a pod's drain may take, in seconds; its grace period is 5 s longer.
            environment: for the app.
        """
        deployment = yaml.safe_load((EXAMPLE / "deployment.yaml").read_text())
        deployment["spec"]["replicas"] = replicas
        template = deployment["spec"]["template"]
        if drain is not None:
            template["metadata"]["annotations"] = {"pgqrs.io/drain-seconds": str(drain)}
            template["spec"]["terminationGracePeriodSeconds"] = drain + 5
        container = template["spec"]["containers"][0]
        if shell:
            container["command"] = ["sh", "-c", shell]
        container["env"] = [{"name": name, "value": value} for name, value in environment.items()]
        self.apply(deployment)
        self.kubectl("rollout", "status", "deployment/emails", "--timeout=90s", timeout=100.0)
        eventually("every pod has a worker", lambda: self.rows_alive() >= replicas, within=30.0)

    def pod(self) -> str:
        """Name a pod of the Deployment that is not ending."""
        pods = [pod for pod in self.items("pods", "-l", "app=emails") if "deletionTimestamp" not in pod["metadata"]]
        return str(pods[0]["metadata"]["name"])

    def send(self, count: int) -> None:
        """Put messages into the queue `emails`."""
        self.query(
            'INSERT INTO pgqrs_messages (queue_id, payload) SELECT q.id, \'{"to": "a"}\' '
            f"FROM pgqrs_queues q, generate_series(1, {count}) WHERE q.queue_name = 'emails'"
        )

    def kill_app(self, pod: str) -> None:
        """Kill the app in a pod that runs it as a child, with SIGKILL."""
        self.kubectl("exec", pod, "-c", "app", "--", "sh", "-c", _KILL)

    # -- what the database says

    def query(self, sql: str) -> str:
        """Run SQL in the namespace's database and give what it selects, as text."""
        return self.installation.query(sql, database=self.database)

    def number(self, sql: str) -> int:
        """Run SQL that gives a number."""
        return int(self.query(sql))

    def rows_alive(self) -> int:
        """Count the workers of processes: those that are ready and that a container has."""
        return self.number("SELECT count(*) FROM pgqrs_workers WHERE status = 'ready' AND container IS NOT NULL")

    def in_progress(self) -> int:
        """Count the messages that a handler has at this moment."""
        return self.number("SELECT count(*) FROM emails_sent WHERE ended_at IS NULL")

    def wait_handled(self, count: int, *, within: float) -> None:
        """Wait until so many messages are archived."""
        done = "SELECT count(*) FROM pgqrs_messages WHERE archived_at IS NOT NULL AND dead_reason IS NULL"
        eventually(f"{count} messages are done", lambda: self.number(done) >= count, within=within)

    def redelivered(self) -> int:
        """Count the deliveries after a message's first one."""
        return self.number("SELECT count(*) - count(DISTINCT message_id) FROM emails_sent")

    # -- for people

    def everything_said(self) -> str:
        """Collect what the cluster shows of this namespace and of the system: objects, events, logs, metrics."""
        kubectl, metrics = self.installation.cluster.kubectl, self.installation.metrics
        said = [self.kubectl("get", "pods,pgqrsqueues,pgqrsworkers,events", "-o", "yaml")]
        for part in ("operator", "injector"):
            label = f"-lapp.kubernetes.io/component={part}"
            said.append(kubectl("-n", SYSTEM, "logs", "--prefix", "--tail=-1", label))
            pods = kubectl("-n", SYSTEM, "get", "pods", label, "-o=jsonpath={.items[*].metadata.name}").split()
            said += [metrics(pod) for pod in pods]
        for pod in self.items("pods"):
            name = pod["metadata"]["name"]
            said.append(self.kubectl("logs", name, "--all-containers", "--prefix"))
            said.append(metrics(name, namespace=self.namespace, port=SIDECAR_METRICS_PORT))
        return "\n".join(said)

    def diagnosis(self) -> str:
        """Give what is useful after a failure: pods, events, logs, rows, and the same of the system."""
        namespace = ("-n", self.namespace)
        wanted = [
            (*namespace, "get", "pods,pgqrsqueues,pgqrsworkers", "-o", "wide"),
            (*namespace, "get", "events", "--sort-by=.lastTimestamp"),
            (*namespace, "logs", "-l", "pgqrs.io/queue", "--all-containers", "--prefix", "--tail=40"),
        ]
        said = [look(self.installation.cluster, wanted, lines=400), *(self._rows(table) for table in self.tables)]
        return "\n".join([*said, self.installation.diagnosis()])

    def _rows(self, table: str) -> str:
        try:
            found = self.query(f"SELECT json_strip_nulls(row_to_json(t)) FROM (TABLE {table}) t ORDER BY t.id")
        except ClusterError as error:
            found = str(error)
        return f"--- rows of {table}\n{tail(found, _ROWS_SHOWN)}"
