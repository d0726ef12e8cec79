"""A real Kubernetes for tests and the demo: `choose` gives the way that this machine has to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.cluster.progress import Progress
    from tests.support.cluster.provider import Cluster

DEFAULT_NAME = "pgqrs"


def choose(name: str = DEFAULT_NAME, *, progress: Progress | None = None) -> Cluster:
    """Give the cluster of a name, made or not, by whichever provider this machine has.

    Args:
        name: Separates it from other test clusters of this machine.
        progress: Where its steps are said; by default on standard error.

    Raises:
        MissingPrerequisiteError: This machine has no way to a cluster; the message says what to install.
    """
    # Late: the local cluster's first process imports this package, and must stay small.
    from tests.support.cluster import chooser  # noqa: PLC0415

    return chooser.choose(name, progress=progress)


__all__ = ["DEFAULT_NAME", "choose"]
