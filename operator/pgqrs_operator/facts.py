"""What the planner is told and what it answers: frozen values, from resources on one side and rows on the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgqrs.fleet import Fleet, QueueDeclaration
    from pgqrs.models import QueuePolicy, WorkerId
    from pgqrs_operator.resources.worker import State
    from pgqrs_operator.verdicts import Verdict


class Key(NamedTuple):
    """Namespace and name of a resource."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredQueue:
    """A `PgqrsQueue` as it is to be in the database."""

    key: Key
    #: How it is named in the column `owner`.
    owner: str
    #: The first of two is the one that counts: time of creation, then uid.
    age: tuple[str, str]
    #: The queue's name in the database.
    name: str
    #: None if the specification is not allowed; `problem` says why.
    policy: QueuePolicy | None
    problem: str = ""
    #: Nothing may be changed on its behalf.
    frozen: bool = False
    deleting: bool = False
    #: Its deletion removes the queue and its history from the database.
    delete_data: bool = False
    #: The row was as declared when this generation was looked at before, so a difference is somebody else's doing.
    settled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredWorker:
    """A `PgqrsWorker`, or an injected pod that has none yet, as it is to be in the database."""

    key: Key
    owner: str
    age: tuple[str, str]
    #: Either the name of one row (`HOST:PORT`) or the uid of the pod whose rows are meant; neither if `problem` is set.
    row_name: str | None = None
    pod_uid: str | None = None
    state: State | None = None
    problem: str = ""
    frozen: bool = False
    deleting: bool = False
    #: The time that a drain may take is over.
    drain_over: bool = False
    #: The pod is being deleted: its sidecar drains it, nobody else.
    pod_ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything that is declared about one database."""

    queues: tuple[DesiredQueue, ...]
    workers: tuple[DesiredWorker, ...]
    #: Owners in rows that must be respected although they are not in `queues`.
    others: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DeclareQueue:
    """Make the row say what is declared."""

    key: Key
    declaration: QueueDeclaration
    #: Why, for events: the row was made, taken over, changed by the declaration, or set right.
    cause: str


@dataclass(frozen=True, slots=True)
class DisownQueue:
    """Leave the row to itself."""

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Remove the row with its history, if no live message is left."""

    key: Key
    name: str


@dataclass(frozen=True, slots=True)
class InterruptWorker:
    """Give it no more messages."""

    worker_id: WorkerId
    owner: str


@dataclass(frozen=True, slots=True)
class SuspendWorker:
    """It has finished what it held: pause it."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class ResumeWorker:
    """Let it work, and let go of it."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Stop it and free what it holds.

    `only_if` is looked at once more in the transaction that stops it: `silent` spares a worker whose heartbeat came,
    `idle` one that works again.
    """

    worker_id: WorkerId
    reason: str
    only_if: str = ""


Action = DeclareQueue | DisownQueue | DeleteQueue | InterruptWorker | SuspendWorker | ResumeWorker | StopWorker


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What a `PgqrsWorker` shows of its rows."""

    worker_ids: tuple[int, ...] = ()
    state: str = "Waiting"
    stale: bool | None = None
    leased: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done, and what can be said already."""

    actions: tuple[Action, ...]
    queues: Mapping[Key, Verdict]
    workers: Mapping[Key, Verdict]
    reports: Mapping[Key, WorkerReport] = field(default_factory=dict)
    #: Resources whose deletion is complete: nothing of theirs is left to do.
    done_queues: frozenset[Key] = frozenset()
    done_workers: frozenset[Key] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is the case: rows, and pods that are known to have ended, with the reason, by their uid."""

    fleet: Fleet
    #: Whether silence says something: not while the database was away so lately that nobody could send a heartbeat.
    silence_counts: bool = True
    ended: Mapping[str, str] = field(default_factory=dict)
