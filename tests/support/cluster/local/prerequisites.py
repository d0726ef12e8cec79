"""What a machine must have for a local cluster."""

from __future__ import annotations

import os
import shutil
import sys

from tests.support import packages
from tests.support.cluster.errors import MissingPrerequisiteError


def require_root() -> None:
    """Check that namespaces and mounts can be made and removed.

    Raises:
        MissingPrerequisiteError: This is not Linux, or not root.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        message = "A cluster without Docker needs root on Linux; run as root, or install Docker and kind."
        raise MissingPrerequisiteError(message)


def require() -> None:
    """Check that everything is there to make a cluster.

    Raises:
        MissingPrerequisiteError: Something is missing; the message says what to install.
    """
    require_root()
    lacking = packages.missing("cluster")
    if shutil.which("go") is None:
        lacking.append("Go 1.26 or later")
    if lacking:
        message = f"This machine lacks {', '.join(lacking)}; `make prepare` installs all of it but Go."
        raise MissingPrerequisiteError(message)
