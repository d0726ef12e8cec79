"""What every kind of cluster offers once it runs: kubectl, helm and ways to a port of a pod and to the API server."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.cluster.commands import run
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")
_SERVING = re.compile(r"Starting to serve on 127\.0\.0\.1:(\d+)")


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
        words = ("-n", namespace, "port-forward", target, f":{port}")
        with self._listening(words, _FORWARDING, f"port {port} of {target} in {namespace}") as number:
            yield number

    @contextmanager
    def proxy(self) -> Iterator[int]:
        """Keep the API server open on 127.0.0.1, with this client's rights, and give the port's number there.

        Raises:
            ClusterError: kubectl could not.
        """
        with self._listening(("proxy", "--port=0"), _SERVING, "the API server") as number:
            yield number

    @contextmanager
    def _listening(self, words: Sequence[str], line: re.Pattern[str], what: str) -> Iterator[int]:
        """Run a kubectl that listens until it is killed, and give the port that it tells in its first line."""
        chosen = [] if self._context is None else [f"--context={self._context}"]
        # A file, not a pipe: a proxy says something of each request that fails, and nobody reads it meanwhile.
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                [self._program("kubectl"), *chosen, *words],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process,
        ):
            try:
                # It prints the line once it listens, or ends; the API server bounds the time that takes.
                first = process.stdout.readline() if process.stdout else ""
                match = line.match(first)
                if match is None:
                    process.kill()
                    process.wait()
                    errors.seek(0)
                    message = f"No way to {what}: {errors.read().strip()}"
                    raise ClusterError(message)
                yield int(match[1])
            finally:
                process.kill()
