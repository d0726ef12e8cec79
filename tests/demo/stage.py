"""What the demo puts into a cluster and takes out again: images, the chart, the example of `deploy/examples/emails`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.cluster.commands import wait_for
from tests.support.cluster.errors import ClusterError
from tests.support.cluster.looking import look
from tests.support.installation import EXAMPLE, SYSTEM, Installation

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.cluster.provider import Cluster

NAMESPACE = "pgqrs-demo"
REPLICAS = 3
#: On what the demo made, so that it never takes over an installation that somebody else made.
_MARK = "pgqrs.io/demo"

#: How long a message is handled and how many at once: slow enough that all that happens happens under load.
_LOAD = {"CONCURRENCY": "4", "SEND_SECONDS": "0.15"}


class Stage:
    """The demo's part of a cluster."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._say = say
        self._installation = Installation(cluster, say)

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl in the demo's namespace."""
        return self._cluster.kubectl("-n", NAMESPACE, *args, stdin=stdin, timeout=timeout)

    def last_words(self, pod: str, script: str) -> str:
        """Run Python in the app's container of a pod, which need not survive it, and give what it printed."""
        environment = {**os.environ, **self._cluster.environment}
        program = shutil.which("kubectl", path=environment["PATH"]) or "kubectl"
        result = subprocess.run(
            [program, "-n", NAMESPACE, "exec", "-i", pod, "-c", "app", "--", "python", "-"],
            env=environment,
            input=script,
            capture_output=True,
            text=True,
            timeout=30.0,
            check=False,
        )
        if not result.stdout:
            message = (
                f"The script in {pod} said nothing (exit code {result.returncode}): {result.stderr.strip()[-500:]}"
            )
            raise ClusterError(message)
        return result.stdout

    def query(self, sql: str) -> str:
        """Run SQL in the demo's database and give what it selects, as text."""
        return self._installation.query(sql)

    # -- what goes in ------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Bring images, chart and queue.

        Raises:
            ClusterError: something did not come up in time, or this installation is somebody else's.
        """
        self._claim(SYSTEM)
        self._claim(NAMESPACE)
        self._installation.bring_images()
        self._installation.install({"developmentPostgres": {"namespaces": [NAMESPACE]}})
        self._say("kubectl apply: the queue `emails`")
        self.kubectl("apply", "-f", str(EXAMPLE / "queue.yaml"))
        self.kubectl("wait", "pgqrsqueue/emails", "--for=condition=Ready", "--timeout=60s", timeout=70.0)

    def _claim(self, namespace: str) -> None:
        ours = self._is_ours(namespace)
        if ours is None:
            metadata = {"name": namespace, "labels": {_MARK: "true"}}
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
            self._cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
        elif not ours:
            message = f"The namespace {namespace} was not made by the demo, which leaves it alone; use another cluster."
            raise ClusterError(message)

    def _is_ours(self, namespace: str) -> bool | None:
        """Tell whether the demo made a namespace; None where there is none."""
        found = self._cluster.kubectl("get", "namespace", namespace, "--ignore-not-found", "-o", "json")
        return _MARK in json.loads(found)["metadata"].get("labels", {}) if found else None

    def clear(self) -> None:
        """Forget what an earlier demo left in the queue."""
        self.kubectl(
            "delete", "deployment/emails", "job/send-emails", "--ignore-not-found", "--timeout=90s", timeout=100
        )
        wait_for(lambda: not self.pods(), what="the pods of an earlier demo to be gone", timeout=90.0, interval=0.5)
        self.query("DROP TABLE IF EXISTS emails_sent; TRUNCATE pgqrs_messages CASCADE")

    def deploy(self) -> None:
        """Start the consumers: the example's Deployment, whose app is a child of a shell here.

        A process that is PID 1 of its container can be killed from nowhere within, and this demo kills one.
        """
        deployment = yaml.safe_load((EXAMPLE / "deployment.yaml").read_text())
        deployment["spec"]["replicas"] = REPLICAS
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        container["command"] = ["sh", "-c", "python app.py; exit $?"]
        container["env"] = [{"name": name, "value": value} for name, value in _LOAD.items()]
        self.kubectl("apply", "-f", "-", stdin=json.dumps(deployment))
        self.wait_rolled_out()

    def wait_rolled_out(self) -> None:
        """Wait until the Deployment's pods are all new and ready."""
        self.kubectl("rollout", "status", "deployment/emails", "--timeout=120s", timeout=130.0)

    def send(self, count: int) -> None:
        """Send messages, by a Job of the example's image."""
        job = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
        job["spec"]["template"]["spec"]["containers"][0]["command"] = ["python", "enqueue.py", str(count)]
        self.kubectl("apply", "-f", "-", stdin=json.dumps(job))
        self.kubectl("wait", "job/send-emails", "--for=condition=Complete", "--timeout=60s", timeout=70.0)

    # -- what is there -------------------------------------------------------------------------------------------------

    def pods(self) -> list[dict[str, Any]]:
        """List the consumers' pods, also those that end."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "pods", "-l", "app=emails", "-o", "json"))["items"]
        return found

    def without_sidecar(self) -> list[str]:
        """Name the consumers' pods that were not injected."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            if not any(container["name"] == "pgqrs-sidecar" for container in pod["spec"].get("initContainers", []))
        ]

    def table(self) -> str:
        """What people look at, the queue and its workers, once the operator has counted what is done."""
        for name in ("ready", "leased"):
            self.kubectl(
                *("wait", "pgqrsqueue/emails", f"--for=jsonpath={{.status.messages.{name}}}=0", "--timeout=30s"),
                timeout=40.0,
            )
        return self._cluster.kubectl("get", "pgqrsqueues,pgqrsworkers", "-A")

    def diagnosis(self) -> str:
        """What is useful after a failure: pods, events, and the last lines of the parts."""
        namespace = ("-n", NAMESPACE)
        wanted = [
            (*namespace, "get", "pods", "-o", "wide"),
            (*namespace, "get", "events", "--sort-by=.lastTimestamp"),
            (*namespace, "logs", "-l", "app=emails", "--all-containers", "--prefix", "--tail=15"),
        ]
        return f"{look(self._cluster, wanted, lines=30)}\n{self._installation.diagnosis()}"

    # -- what goes out -------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Take everything out of a cluster that stays.

        Raises:
            ClusterError: something could not be removed, or is not ours to remove.
        """
        for namespace in (NAMESPACE, SYSTEM):
            if not self._is_ours(namespace):
                continue
            if namespace == SYSTEM:
                # With the chart's hook, which lets go of what is left.
                self._installation.uninstall()
                kinds = ("crd/pgqrsqueues.pgqrs.io", "crd/pgqrsworkers.pgqrs.io")
                self._cluster.kubectl("delete", *kinds, "--ignore-not-found", "--timeout=60s", timeout=70.0)
            self._cluster.kubectl("delete", "namespace", namespace, "--timeout=150s", timeout=160.0)
