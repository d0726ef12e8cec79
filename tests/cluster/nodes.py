"""What only a node can do to its processes, the control plane's own and those of pods: signals, and deafness."""

from __future__ import annotations

import json
from signal import SIGCONT
from typing import TYPE_CHECKING

from tests.cluster.shop import eventually
from tests.support.cluster.errors import ClusterError
from tests.support.installation import EXAMPLE_IMAGE, SYSTEM

if TYPE_CHECKING:
    import signal

    from tests.cluster.workloads import Body
    from tests.support.cluster.provider import Cluster

API_SERVER = "kube-apiserver"
KUBELET = "kubelet"
OPERATOR = "pgqrs-operator"
SIDECAR = "pgqrs-sidecar"
_NAME = "processes-of-nodes"
#: What a kubelet says that does not know a pod.
_UNKNOWN = "pod does not exist"
#: Finds the processes of a program. The image has Python.
_FIND = """
import os, sys

program, pod, node = sys.argv[1:4]
found = []
for entry in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{entry}/cmdline") as line, open(f"/proc/{entry}/cgroup") as groups:
            words, group = line.read().split("\\0"), groups.read().replace("_", "-")
    except OSError:
        continue
    # Nodes of a test cluster may share their processes; those of a node that has another name than its machine say it.
    names = [word.partition("=")[2] for word in words if word.startswith("--hostname-override=")]
    if program in map(os.path.basename, words[:2]) and pod in group and (not node or node in (names or [node])):
        found.append(int(entry))
"""
#: Says how many there are, and signals them a moment later, because the way that the answer takes may be what is hit.
_SEND = f"""{_FIND}
import time

number, seconds, then = int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
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
            os.kill(process, then)
"""
#: Takes a copy of each connection to the API server on which nothing was asked for longer than an idle one is kept: a
#: watch. If all are there, a filter that passes nothing leaves them as they are, and silent. Says whether they are.
_DEAFEN = f"""{_FIND}
import ctypes, socket, struct

port, wanted = int(sys.argv[4]), int(sys.argv[5])
GET_FILE, ATTACH_FILTER, KEPT_MILLISECONDS = 438, 26, 16_000
system, watches = ctypes.CDLL(None), []
for process in found:
    handle = os.pidfd_open(process)
    for number in os.listdir(f"/proc/{{process}}/fd"):
        if not os.readlink(f"/proc/{{process}}/fd/{{number}}").startswith("socket:"):
            continue
        copy = socket.socket(fileno=system.syscall(GET_FILE, handle, int(number), 0))
        try:
            _, peer, *_ = copy.getpeername()
            told = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        except (OSError, ValueError):
            # It is no connection, or none by TCP.
            continue
        if peer == port and struct.unpack_from("I", told, 44)[0] > KEPT_MILLISECONDS:
            watches.append(copy)
pass_nothing = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
if len(watches) == wanted:
    for watch in watches:
        watch.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(pass_nothing)))
print(len(watches))
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

    def signal(
        self,
        program: str,
        number: signal.Signals,
        *,
        pod: str = "",
        node: str = "",
        seconds: float = 0.0,
        then: signal.Signals = SIGCONT,
    ) -> bool:
        """Send a signal to a program, a moment after this returns; tell whether it runs anywhere.

        Args:
            program: the name of its file.
            number: the signal.
            pod: the uid of the pod that it runs in; empty where that does not matter.
            node: the name of the node that it is a part of; empty where that does not matter.
            seconds: it is sent another signal after so many, whatever becomes of the test; 0 for never.
            then: that signal.
        """
        words = ("python", "-", program, pod, node, str(number.value), str(seconds), str(then.value))
        # Nodes of a test cluster may share their processes: only the first one that sees any signals them.
        return any(int(self._run(name, words, _SEND)) for name in self._pods(node))

    def deafen(self, program: str, *, pod: str, watches: int) -> bool:
        """Let nothing that comes on its watches reach a program, which cannot tell that from silence.

        Args:
            program: the name of its file.
            pod: the uid of the pod that it runs in.
            watches: how many it has; what it opens later is none of these.

        Returns:
            Whether they were there, all of them for some time; otherwise nothing is done.
        """
        port = self._cluster.kubectl("get", "service", "kubernetes", "-o=jsonpath={.spec.ports[0].port}")
        words = ("python", "-", program, pod, "", port, str(watches))
        return any(int(self._run(name, words, _DEAFEN)) == watches for name in self._pods(""))

    def _run(self, name: str, words: tuple[str, ...], script: str) -> str:
        """Run a script in a pod; a kubelet that has just started does not know its pods for a moment."""

        def ran() -> str | None:
            try:
                return self._kubectl("exec", "-i", name, "--", *words, stdin=script)
            except ClusterError as error:
                if _UNKNOWN not in str(error):
                    raise
                return None

        return eventually(f"{name} is known to its kubelet", ran, within=30.0)

    def _pods(self, node: str) -> list[str]:
        """Name the pods of this class; with a node, the one that is on it."""
        where = [f"--field-selector=spec.nodeName={node}"] if node else []
        return self._kubectl("get", "pods", "-l", f"app={_NAME}", "-o", "name", *where).split()

    def _kubectl(self, *args: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        return self._cluster.kubectl("-n", SYSTEM, *args, stdin=stdin, timeout=timeout)


def _daemon_set() -> Body:
    container = {
        "name": "main",
        "image": EXAMPLE_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 86400 & wait"],
        # Only root may signal what belongs to others. The capabilities are for copies of connections, and for filters.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "capabilities": {"add": ["SYS_PTRACE", "NET_ADMIN"]},
        },
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
