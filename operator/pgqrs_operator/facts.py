"""What the planner is told and what it answers: frozen values, from resources on one side and rows on the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgqrs.fleet import Fleet, QueueDeclaration
    from pgqrs.models import QueueInfo, QueuePolicy, QueueRetention, WorkerId
    from pgqrs_operator.pods import Restart
    from pgqrs_operator.resources.worker import State
    from pgqrs_operator.verdicts import Verdict


class Key(NamedTuple):
    """Namespace and name of a resource."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Concerned(NamedTuple):
    """A resource of one of the two kinds."""

    kind: Literal["queue", "worker"]
    key: Key


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
    #: None leaves what the row says.
    retention: QueueRetention | None = None
    problem: str = ""
    #: Nothing may be changed on its behalf.
    frozen: bool = False
    deleting: bool = False
    #: Its deletion removes the queue and its history from the database.
    delete_data: bool = False
    #: It takes over a row of its name that it did not make.
    adopts: bool = True
    #: The id that its row had when it was looked at last, as its status says; anybody may have written that.
    former_id: int | None = None
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
    #: The queue that a named worker has to serve; a pod's may serve any.
    queue_name: str | None = None
    #: It is the one that is made for its pod, which comes before any other of that pod.
    mirror: bool = False
    state: State | None = None
    problem: str = ""
    frozen: bool = False
    deleting: bool = False
    #: The time that a drain may take is over.
    drain_over: bool = False
    #: There is no such resource: its pod has none yet, or only rows are left of it. Nobody can be told anything.
    stand_in: bool = False
    #: The pod is being deleted: its sidecar drains it, nobody else.
    pod_ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything that is declared about one database."""

    queues: tuple[DesiredQueue, ...]
    workers: tuple[DesiredWorker, ...]
    #: Owners in rows that must be respected although they are not in `queues`.
    others: frozenset[str] = frozenset()
    #: Resources that could not be read, which is a defect of ours; nothing is done for them.
    defects: Mapping[Concerned, Exception] = field(default_factory=dict)


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

    key: Key
    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Remove the row with its history, if it still is the one that was seen and no live message is left."""

    key: Key
    name: str
    seen: QueueInfo


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
    `idle` one that works again. `died`: its process ended by itself, so what it held comes under suspicion.
    """

    worker_id: WorkerId
    reason: str
    only_if: str = ""
    died: bool = False


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
    #: Names of queues that have a row and a resource which agrees to have to do with it.
    served: frozenset[str] = frozenset()
    #: What was raised for one of them, which is a defect of ours.
    defects: Mapping[Concerned, Exception] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is the case: rows, and pods that are known to have ended, with the reason, by their uid."""

    fleet: Fleet
    #: Whether silence says something: not while the database was away so lately that nobody could send a heartbeat.
    silence_counts: bool = True
    ended: Mapping[str, str] = field(default_factory=dict)
    #: App containers that ended in pods that go on, by the pod's uid.
    restarts: Mapping[str, Restart] = field(default_factory=dict)
