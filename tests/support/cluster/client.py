"""What every kind of cluster offers once it runs: kubectl, helm and a way to a port of a pod."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.cluster.commands import run
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


class Client:
    """Runs kubectl and helm against one cluster, never against the one that a person's shell is set to."""

    def __init__(self, kubeconfig: Path, *, search_path: Path | None = None, context: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self._search_path = search_path
        self._context = context

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make any Kubernetes program use this cluster."""
        path = os.environ.get("PATH", os.defpath)
        if self._search_path is not None:
            path = f"{self._search_path}{os.pathsep}{path}"
        return {"KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def _program(self, name: str) -> str:
        """Give the program's path where it is ours: a child's PATH does not count for finding the child."""
        return name if self._search_path is None else str(self._search_path / name)

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl and give its output.

        Args:
            args: Its arguments.
            stdin: Text for `-f -`.
            timeout: Seconds until it is killed.

        Raises:
            ClusterError: It failed; the message ends with its last lines.
        """
        chosen = [] if self._context is None else [f"--context={self._context}"]
        argv = [self._program("kubectl"), *chosen, *args]
        return run(argv, environment=self.environment, stdin=stdin, timeout=timeout)

    def _ready_nodes(self) -> int:
        path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
        return (
            self.kubectl("get", "nodes", f"-o=jsonpath={path}", "--request-timeout=5s", timeout=10)
            .split()
            .count("True")
        )

    def helm(self, *args: str, stdin: str | None = None, timeout: float = 180.0) -> str:
        """Run helm and give its output; the arguments are those of `kubectl`.

        Raises:
            ClusterError: It failed; the message ends with its last lines.
        """
        chosen = [] if self._context is None else [f"--kube-context={self._context}"]
        argv = [self._program("helm"), *chosen, *args]
        return run(argv, environment=self.environment, stdin=stdin, timeout=timeout)

    @contextmanager
    def port_forward(self, target: str, port: int, *, namespace: str) -> Iterator[int]:
        """Keep a port of a pod open on 127.0.0.1 and give its number there.

        Args:
            target: Such as `pod/web` or `service/postgres`.
            port: The port of the pod or Service.
            namespace: Where the target is.

        Raises:
            ClusterError: The target has no running pod, or does not exist.
        """
        chosen = [] if self._context is None else [f"--context={self._context}"]
        argv = [self._program("kubectl"), *chosen, "-n", namespace, "port-forward", target, f":{port}"]
        with subprocess.Popen(
            argv,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                # It prints the line once it listens, or ends; the API server bounds the time that takes.
                first = process.stdout.readline() if process.stdout else ""
                match = _FORWARDING.match(first)
                if match is None:
                    process.kill()
                    said = process.stderr.read() if process.stderr else ""
                    message = f"No way to port {port} of {target} in {namespace}: {said.strip()}"
                    raise ClusterError(message)
                yield int(match[1])
            finally:
                process.kill()
