"""What one database's loop is told to look after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.store import Queue, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The resources and pods of one database, as they were last seen."""

    queues: tuple[Queue, ...]
    workers: tuple[Worker, ...]
    pods: tuple[Pod, ...]
    #: Uids of queues whose Secret does not name this database any more.
    orphans: frozenset[str] = frozenset()

    @property
    def living(self) -> set[str]:
        """Uids of pods that go on."""
        return {pod.uid for pod in self.pods if pod.ended is None}
