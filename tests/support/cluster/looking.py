"""What kubectl shows of a cluster, for people, after something failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.cluster.commands import tail
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.support.cluster.provider import Cluster

_SECONDS = 15.0


def look(cluster: Cluster, wanted: Iterable[Sequence[str]], *, lines: int = 100) -> str:
    """Give what several kubectl commands print; one that fails tells why, and the others go on.

    Args:
        cluster: Where to look.
        wanted: The arguments of each command.
        lines: How many of each command's last lines are given.
    """
    said = []
    for words in wanted:
        try:
            text = cluster.kubectl(*words, timeout=_SECONDS)
        except ClusterError as error:
            text = str(error)
        said.append(f"--- kubectl {' '.join(words)}\n{tail(text, lines)}")
    return "\n".join(said)
