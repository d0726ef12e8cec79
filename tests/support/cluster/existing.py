"""A cluster that somebody else made and named for the tests. It is used, never made or removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from tests.support.cluster.client import Client
from tests.support.cluster.errors import ClusterError
from tests.support.cluster.provider import ClusterStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.cluster.progress import Progress


class ExistingCluster(Client):
    """The cluster that a kubeconfig's current context names."""

    provider = "kubeconfig"

    def __init__(self, name: str, kubeconfig: Path, progress: Progress) -> None:
        self.name = name
        super().__init__(kubeconfig)
        self._progress = progress

    def prepare(self) -> None:
        """Nothing to do: see `provider.Cluster`."""

    def up(self, *, nodes: int | None = None) -> None:
        """Check that it is there: see `provider.Cluster`."""
        ready = self._ready_nodes()
        wanted = 1 if nodes is None else nodes
        if ready < wanted:
            message = f"The cluster of {self.kubeconfig} has {ready} nodes that are Ready; {wanted} are wanted."
            raise ClusterError(message)
        self._progress.say(f"the cluster of {self.kubeconfig} answers; it stays as it is")

    def down(self) -> None:
        """Leave it alone: see `provider.Cluster`."""
        self._progress.say(f"the cluster of {self.kubeconfig} is not ours to remove; it stays")

    def status(self) -> ClusterStatus:
        """Look how it is: see `provider.Cluster`."""
        try:
            ready = self._ready_nodes()
        except ClusterError as error:
            return ClusterStatus(healthy=False, details=(str(error),))
        return ClusterStatus(healthy=ready > 0, details=(f"the cluster of {self.kubeconfig}: {ready} node(s) Ready",))

    def load_image(self, image: str | Path) -> None:
        """Refuse: see `provider.Cluster`."""
        self._refuse(str(image))

    def build_image(
        self,
        dockerfile: Path,  # noqa: ARG002 - the protocol's
        tag: str,
        *,
        context: Path,  # noqa: ARG002
        build_args: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> None:
        """Refuse: see `provider.Cluster`."""
        self._refuse(tag)

    def _refuse(self, image: str) -> NoReturn:
        message = (
            f"{image} cannot be brought into the cluster of {self.kubeconfig} by this program: push it to a registry "
            "that the cluster pulls from."
        )
        raise ClusterError(message)
