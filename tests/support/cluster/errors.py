"""What can go wrong with a test cluster, in two kinds: what the reader can install, and everything else."""

from __future__ import annotations


class ClusterError(Exception):
    """The test cluster could not be made, reached or removed."""


class MissingPrerequisiteError(ClusterError):
    """Something that the machine must have is missing; the message says what to install."""
