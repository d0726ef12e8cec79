"""What a test cluster is to those who use it, whoever provides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """How a cluster is."""

    #: The nodes are Ready and the API server answers.
    healthy: bool
    #: One line per thing worth knowing, for people.
    details: tuple[str, ...]


class Cluster(Protocol):
    """A cluster that can be made, used and removed."""

    @property
    def name(self) -> str:
        """Its name, which separates it from other clusters of this machine."""

    @property
    def provider(self) -> str:
        """`local`, `kind` or `kubeconfig`."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way in."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make any Kubernetes program use this cluster: KUBECONFIG and PATH."""

    def prepare(self) -> None:
        """Build and fetch beforehand what `up` and the usual images need; a second time there is nothing to do.

        Raises:
            MissingPrerequisiteError: The machine lacks something.
            ClusterError: A build failed; the message shows its last lines.
        """

    def up(self, *, nodes: int | None = None) -> None:
        """Make the cluster run, with at least this many nodes; a healthy one is kept, a broken one replaced.

        Raises:
            MissingPrerequisiteError: The machine lacks something.
            ClusterError: A part did not start; the message shows its last lines.
        """

    def down(self) -> None:
        """Remove the cluster and every trace of it, also one that crashed or was never finished.

        Raises:
            ClusterError: Something could not be removed.
        """

    def status(self) -> ClusterStatus:
        """Look how it is; never raises for a cluster that is absent or broken."""

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl and give its output."""

    def helm(self, *args: str, stdin: str | None = None, timeout: float = 180.0) -> str:
        """Run helm and give its output."""

    def port_forward(self, target: str, port: int, *, namespace: str) -> AbstractContextManager[int]:
        """Keep a port of a pod open on 127.0.0.1 and give its number there."""

    def proxy(self) -> AbstractContextManager[int]:
        """Keep the API server open on 127.0.0.1, with an administrator's rights, and give the port's number there."""

    def load_image(self, image: str | Path) -> None:
        """Bring an image to every node: a name, or an archive as `docker save` writes it.

        Raises:
            ClusterError: There is no such image, or a node refused it.
        """

    def build_image(
        self, dockerfile: Path, tag: str, *, context: Path, build_args: Mapping[str, str] | None = None
    ) -> None:
        """Build an image and bring it to every node; nothing happens where both were done before.

        Args:
            dockerfile: The recipe.
            tag: The image's full name, such as `docker.io/library/thing:test`.
            context: The folder that the recipe copies from.
            build_args: Values for the recipe's arguments.

        Raises:
            ClusterError: The build failed; the message ends with its last lines.
        """
