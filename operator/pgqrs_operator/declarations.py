"""Turns resources and pods into what the planner wants to know about one database. Pure; it does no I/O."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgqrs_operator import verdicts
from pgqrs_operator.facts import Concerned, Desired, DesiredQueue, DesiredWorker, Key
from pgqrs_operator.resources.common import is_object_name
from pgqrs_operator.resources.queue import InvalidSpecError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pgqrs.fleet import Fleet, FleetWorker
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Queue, Worker

#: The largest that PostgreSQL gives a row.
_MAX_ID = 2**63 - 1


def queue(resource: Queue, settings: Settings) -> DesiredQueue:
    """Read what a `PgqrsQueue` declares."""
    return DesiredQueue(
        key=resource.key,
        owner=settings.owner(*resource.key),
        age=resource.age,
        name=resource.queue_name,
        policy=resource.policy,
        retention=resource.retention,
        problem=resource.problem,
        frozen=resource.frozen,
        deleting=resource.deleting is not None,
        delete_data=resource.spec.deletion_policy == "Delete",
        adopts=resource.spec.adopt == "IfExists",
        former_id=_row_id(resource.status.get("queueId")),
        settled=verdicts.settled(resource.status, resource.generation),
    )


def _row_id(told: object) -> int | None:
    """Give what a status says if a row can have it for an id."""
    return told if type(told) is int and 0 < told <= _MAX_ID else None


def worker(
    resource: Worker, pod: Pod | None, settings: Settings, *, now: datetime, queue_name: str | None = None
) -> DesiredWorker:
    """Read what a `PgqrsWorker` declares.

    Args:
        resource: the resource.
        pod: the pod of the uid that it is said to be owned by, if there is one and it is there.
        settings: of the operator.
        now: for the time that a drain has taken.
        queue_name: how the queue that it refers to is named in the database.
    """
    row_name, drain_over, problem = None, False, resource.problem
    pod_uid = resource.pod_uid
    if pod is not None and pod.key.namespace != resource.key.namespace:
        # Who it belongs to is what somebody wrote, and nobody may speak for the pods of another namespace.
        pod, pod_uid = None, None
        problem = f"The pod that owns this is not in namespace {resource.key.namespace!r}; delete this."
    if resource.spec is not None and not problem:
        try:
            row_name = resource.spec.worker_name(pod_owned=pod_uid is not None)
            since = draining_since(resource)
            drain_over = since is not None and now - since > resource.spec.drain_limit()
        except InvalidSpecError as error:
            problem = str(error)
    return DesiredWorker(
        key=resource.key,
        owner=settings.owner(*resource.key),
        age=resource.age,
        row_name=row_name,
        pod_uid=pod_uid,
        queue_name=queue_name,
        mirror=pod_uid is not None and resource.key.name == resource.pod_name,
        state=resource.spec.state if resource.spec else None,
        problem=problem,
        frozen=resource.frozen,
        deleting=resource.deleting is not None and not lives(pod),
        drain_over=drain_over,
        pod_ending=pod is not None and pod.ending,
    )


def lives(pod: Pod | None) -> bool:
    """Tell whether a pod goes on: its `PgqrsWorker` only mirrors it, so deleting that stops nothing."""
    return pod is not None and not pod.ending and pod.ended is None


def draining_since(resource: Worker) -> datetime | None:
    """Give when this drain of a worker that is to be stopped began; another generation's drain was another one."""
    drain = resource.status.get("drain") or {}
    return datetime.fromisoformat(drain["since"]) if drain.get("generation") == resource.generation else None


def pod_worker(pod: Pod, settings: Settings, *, unreadable: bool = False) -> DesiredWorker:
    """Stand in for the `PgqrsWorker` of an injected pod that has none yet, or none any more.

    Args:
        pod: the pod.
        settings: of the operator.
        unreadable: there is one, and nobody knows what it says: only the dead are looked after, nobody else is touched.
    """
    return DesiredWorker(
        key=pod.key,
        owner=settings.owner(*pod.key),
        age=(pod.created, pod.uid),
        pod_uid=pod.uid,
        mirror=True,
        stand_in=True,
        frozen=unreadable,
        pod_ending=pod.ending,
    )


def names_a_pod(row: FleetWorker) -> bool:
    """Tell whether a row names a pod as Kubernetes names them: whoever can write rows must not lead us elsewhere."""
    return bool(row.info.pod_uid) and is_object_name(row.info.pod_namespace) and is_object_name(row.info.pod_name)


def lost_worker(row: FleetWorker, settings: Settings) -> DesiredWorker:
    """Stand in for the `PgqrsWorker` of a pod of which only rows are left."""
    key = Key(row.info.pod_namespace or "", row.info.pod_name or "")
    return DesiredWorker(
        key=key,
        owner=settings.owner(*key),
        age=("", row.info.pod_uid or ""),
        pod_uid=row.info.pod_uid,
        mirror=True,
        stand_in=True,
    )


def foreign_owners(
    fleet: Fleet, declared: Iterable[DesiredQueue], existing: Collection[str], settings: Settings
) -> frozenset[str]:
    """Give the owners of rows that must be respected although nothing here declares them.

    Args:
        fleet: the rows.
        declared: the queues that are declared in this database.
        existing: the owners that have a resource, in whatever database.
        settings: of the operator.
    """
    here = {queue.owner for queue in declared}
    owners = {found.info.owner for found in fleet.queues.values() if found.info.owner} - here
    # An owner that this operator would see, and that has no resource, is a leftover and may be succeeded.
    return frozenset(owner for owner in owners if owner in existing or not settings.watches(owner))


def desired(
    queues: Iterable[Queue],
    workers: Iterable[Worker],
    pods: Iterable[Pod],
    settings: Settings,
    *,
    queue_names: Mapping[Key, str] | None = None,
) -> Desired:
    """Put together what is declared about one database.

    Args:
        queues: those of the database.
        workers: those of these queues.
        pods: those of these queues.
        settings: of the operator.
        queue_names: how the queues are named in the database; those of `queues` if not given.
    """
    queues = list(queues)
    names = {one.key: one.queue_name for one in queues} if queue_names is None else queue_names
    by_uid = {pod.uid: pod for pod in pods}
    now = datetime.now(UTC)
    defects: dict[Concerned, Exception] = {}
    found_queues: list[DesiredQueue] = []
    found_workers: list[DesiredWorker] = []
    spoken_for: set[tuple[str, str]] = set()
    unreadable: set[tuple[str, str]] = set()
    for resource in queues:
        try:
            found_queues.append(queue(resource, settings))
        except Exception as error:  # noqa: BLE001 - logged and told by the loop; the others go on
            defects[Concerned("queue", resource.key)] = error
    for one in workers:
        pod = by_uid.get(one.pod_uid or "")
        try:
            found = worker(one, pod, settings, now=now, queue_name=names.get(one.queue_key) if one.queue_key else None)
        except Exception as error:  # noqa: BLE001 - logged and told by the loop; the others go on
            defects[Concerned("worker", one.key)] = error
            unreadable.add((one.key.namespace, one.pod_uid or ""))
        else:
            found_workers.append(found)
            spoken_for.add((one.key.namespace, found.pod_uid or ""))
    found_workers += [
        pod_worker(pod, settings, unreadable=(pod.key.namespace, pod.uid) in unreadable)
        for pod in by_uid.values()
        if pod.injected and (pod.key.namespace, pod.uid) not in spoken_for
    ]
    return Desired(queues=tuple(found_queues), workers=tuple(found_workers), defects=defects)
