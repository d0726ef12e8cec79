"""Which provider gives the test cluster: an existing one if one is named, else Docker and kind, else this machine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.commands import run
from tests.support.cluster.errors import ClusterError, MissingPrerequisiteError
from tests.support.cluster.existing import ExistingCluster
from tests.support.cluster.kind import KindCluster
from tests.support.cluster.local.cluster import LocalCluster
from tests.support.cluster.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.cluster.provider import Cluster

#: Names an existing cluster; nothing else ever makes this program touch one.
KUBECONFIG_VARIABLE = "PGQRS_TEST_KUBECONFIG"
_DOCKER_TIMEOUT = 5.0


def choose(name: str, *, progress: Progress | None = None, environment: Mapping[str, str] | None = None) -> Cluster:
    """Give the cluster of a name by whichever provider this machine has: see `tests.support.cluster.choose`."""
    said = Progress() if progress is None else progress
    kubeconfig = (os.environ if environment is None else environment).get(KUBECONFIG_VARIABLE)
    if kubeconfig:
        return ExistingCluster(name, Path(kubeconfig), said)
    if shutil.which("kind") and _docker_answers():
        return KindCluster(name, said)
    if sys.platform.startswith("linux") and os.geteuid() == 0:
        return LocalCluster(name, said)
    message = (
        "This machine has no way to a Kubernetes cluster: install Docker and kind, or run this as root on Linux, or "
        f"name an existing cluster's kubeconfig in {KUBECONFIG_VARIABLE}."
    )
    raise MissingPrerequisiteError(message)


def _docker_answers() -> bool:
    try:
        # Without an engine, the program may still end well: the version of the server is what only an engine has.
        return bool(run(["docker", "info", "--format", "{{.ServerVersion}}"], timeout=_DOCKER_TIMEOUT).strip())
    except ClusterError:
        return False
