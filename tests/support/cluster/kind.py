"""A cluster in Docker containers, made by kind."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.client import Client
from tests.support.cluster.commands import run
from tests.support.cluster.errors import ClusterError, MissingPrerequisiteError
from tests.support.cluster.programs import cache_root, exclusive
from tests.support.cluster.provider import ClusterStatus
from tests.support.cluster.secrets import build_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.cluster.progress import Progress

_CREATE_TIMEOUT = 600.0
_IMAGE_TIMEOUT = 900.0
_READY_TIMEOUT = "180s"
#: Beside other nodes kind keeps pods away from the first one; here every node is one that pods can move to.
_FOR_PODS_TOO = """\
kind: InitConfiguration
nodeRegistration:
  taints: []
"""


class KindCluster(Client):
    """The kind cluster of one name, running or not."""

    provider = "kind"

    def __init__(self, name: str, progress: Progress) -> None:
        self.name = name
        self._root = cache_root() / "kind" / name
        super().__init__(self._root / "kubeconfig")
        self._progress = progress

    # -- life ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check that the programs are there: see `provider.Cluster`."""
        lacking = [program for program in ("docker", "helm", "kind", "kubectl") if shutil.which(program) is None]
        if lacking:
            message = f"This machine lacks {', '.join(lacking)}; install what is named and have it on PATH."
            raise MissingPrerequisiteError(message)

    def up(self, *, nodes: int | None = None) -> None:
        """Make the cluster run: see `provider.Cluster`."""
        self.prepare()
        wanted = 1 if nodes is None else nodes
        with exclusive(f"cluster-{self.name}"):
            if self._exists():
                if self._is_healthy(wanted):
                    self._progress.say(f"cluster {self.name} is running and healthy: kept")
                    return
                self._progress.say(f"replacing cluster {self.name}: it is not healthy, or has too few nodes")
                self._delete()
            self._root.mkdir(parents=True, exist_ok=True)
            first = {"role": "control-plane", "kubeadmConfigPatches": [_FOR_PODS_TOO]}
            configuration = {
                "kind": "Cluster",
                "apiVersion": "kind.x-k8s.io/v1alpha4",
                "nodes": [first, *[{"role": "worker"}] * (wanted - 1)],
            }
            run(
                ["kind", "create", "cluster", f"--name={self.name}", f"--kubeconfig={self.kubeconfig}", "--config=-"],
                stdin=json.dumps(configuration),
                timeout=_CREATE_TIMEOUT,
            )
            self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={_READY_TIMEOUT}", timeout=200)
        self._progress.say(f"{wanted} node(s) Ready")

    def down(self) -> None:
        """Remove every trace: see `provider.Cluster`."""
        with exclusive(f"cluster-{self.name}"):
            self._delete()
        self._progress.say(f"cluster {self.name} is gone")

    def status(self) -> ClusterStatus:
        """Look how it is: see `provider.Cluster`."""
        try:
            if not self._exists():
                return ClusterStatus(healthy=False, details=(f"cluster {self.name} does not exist",))
            ready = self._ready_nodes()
        except ClusterError as error:
            return ClusterStatus(healthy=False, details=(str(error),))
        return ClusterStatus(healthy=ready > 0, details=(f"cluster {self.name}: {ready} node(s) Ready",))

    # -- use -----------------------------------------------------------------------------------------------------

    def load_image(self, image: str | Path) -> None:
        """Bring an image to every node: see `provider.Cluster`."""
        if isinstance(image, Path):
            run(["kind", "load", "image-archive", image, f"--name={self.name}"], timeout=_IMAGE_TIMEOUT)
            return
        if not run(["docker", "images", "--quiet", image]).strip():
            run(["docker", "pull", "--quiet", image], timeout=_IMAGE_TIMEOUT)
        # kind itself skips nodes that have it.
        run(["kind", "load", "docker-image", image, f"--name={self.name}"], timeout=_IMAGE_TIMEOUT)
        self._progress.say(f"the nodes have {image}")

    def build_image(
        self, dockerfile: Path, tag: str, *, context: Path, build_args: Mapping[str, str] | None = None
    ) -> None:
        """Build an image and bring it to every node: see `provider.Cluster`."""
        argv = ["docker", "build", "--quiet", "--file", str(dockerfile), "--tag", tag]
        argv += [word for pair in sorted((build_args or {}).items()) for word in ("--build-arg", "=".join(pair))]
        with tempfile.TemporaryDirectory(prefix="pgqrs-build-") as scratch:
            # The plain builder of old has no secrets.
            environment = {"DOCKER_BUILDKIT": "1"}
            argv += [*build_secrets(Path(scratch)), str(context)]
            run(argv, environment=environment, timeout=_IMAGE_TIMEOUT)
        self.load_image(tag)

    # -- inner parts ---------------------------------------------------------------------------------------------

    def _exists(self) -> bool:
        return self.name in run(["kind", "get", "clusters"]).split()

    def _is_healthy(self, wanted: int) -> bool:
        try:
            return self._ready_nodes() >= wanted
        except ClusterError:
            return False

    def _delete(self) -> None:
        run(["kind", "delete", "cluster", f"--name={self.name}", f"--kubeconfig={self.kubeconfig}"], timeout=180)
        shutil.rmtree(self._root, ignore_errors=True)
