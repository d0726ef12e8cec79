"""Signals to processes that run on the nodes: the control plane's own, and those of other pods."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.installation import EXAMPLE_IMAGE, SYSTEM

if TYPE_CHECKING:
    import signal

    from tests.cluster.workloads import Body
    from tests.support.cluster.provider import Cluster

API_SERVER = "kube-apiserver"
OPERATOR = "pgqrs-operator"
SIDECAR = "pgqrs-sidecar"
_NAME = "processes-of-nodes"
#: Finds the processes of a program, says how many there are, and signals them a moment later, because the way that the
#: answer takes may be what is hit. The image has Python.
_SEND = """
import os, signal, sys, time

program, number, pod, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
found = []
for entry in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{entry}/cmdline") as line, open(f"/proc/{entry}/cgroup") as groups:
            words, group = line.read().split("\\0"), groups.read().replace("_", "-")
    except OSError:
        continue
    if program in map(os.path.basename, words[:2]) and pod in group:
        found.append(int(entry))
print(len(found), flush=True)
if found and os.fork() == 0:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    time.sleep(0.3)
    for process in found:
        os.kill(process, number)
    if seconds:
        time.sleep(seconds)
        for process in found:
            os.kill(process, signal.SIGCONT)
"""


class Nodes:
    """A pod on each node that sees the processes of the whole node."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def start(self) -> None:
        """Start the pods and wait for them."""
        self._kubectl("apply", "-f", "-", stdin=json.dumps(_daemon_set()))
        self._kubectl("rollout", "status", f"daemonset/{_NAME}", "--timeout=60s", timeout=70.0)

    def stop(self) -> None:
        """Take them away."""
        # With its pods, so that nobody meets those of the one before.
        self._kubectl("delete", "daemonset", _NAME, "--cascade=foreground")

    def signal(self, program: str, number: signal.Signals, *, pod: str = "", seconds: float = 0.0) -> bool:
        """Send a signal to a program, a moment after this returns; tell whether it runs anywhere.

        Args:
            program: the name of its file.
            number: the signal.
            pod: the uid of the pod that it runs in; empty where that does not matter.
            seconds: it is sent SIGCONT after so many; 0 for never.
        """
        words = ("python", "-", program, str(number.value), pod, str(seconds))
        pods = self._kubectl("get", "pods", "-l", f"app={_NAME}", "-o", "name").split()
        # Nodes of a test cluster may share their processes: only the first one that sees any signals them.
        return any(int(self._kubectl("exec", "-i", name, "--", *words, stdin=_SEND)) for name in pods)

    def _kubectl(self, *args: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        return self._cluster.kubectl("-n", SYSTEM, *args, stdin=stdin, timeout=timeout)


def _daemon_set() -> Body:
    container = {
        "name": "main",
        "image": EXAMPLE_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 86400 & wait"],
        # Only root may signal what belongs to others.
        "securityContext": {"runAsUser": 0, "runAsGroup": 0},
    }
    spec = {
        "hostPID": True,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        # Also where only the control plane runs.
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
    }
    labels = {"app": _NAME}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": _NAME},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
