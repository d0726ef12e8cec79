"""Turns resources and pods into what the planner wants to know about one database. Pure; it does no I/O."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgqrs_operator import verdicts
from pgqrs_operator.facts import Desired, DesiredQueue, DesiredWorker, Key
from pgqrs_operator.resources.queue import InvalidSpecError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pgqrs.fleet import Fleet, FleetWorker
    from pgqrs_operator.pods import Pod
    from pgqrs_operator.settings import Settings
    from pgqrs_operator.store import Queue, Resource, Worker


def queue(resource: Queue, settings: Settings) -> DesiredQueue:
    """Read what a `PgqrsQueue` declares."""
    policy, problem = None, resource.problem
    if not problem:
        try:
            policy = resource.spec.policy(resource.queue_name)
        except InvalidSpecError as error:
            problem = str(error)
    return DesiredQueue(
        key=resource.key,
        owner=settings.owner(*resource.key),
        age=resource.age,
        name=resource.queue_name,
        policy=policy,
        problem=problem,
        frozen=resource.frozen,
        deleting=resource.deleting is not None,
        delete_data=resource.spec.deletion_policy == "Delete",
        settled=_settled(resource),
    )


def _settled(resource: Resource) -> bool:
    ready = verdicts.condition(resource.status, "Ready")
    return ready.get("status") == "True" and ready.get("observedGeneration") == resource.generation


def worker(resource: Worker, pod: Pod | None, settings: Settings, *, now: datetime) -> DesiredWorker:
    """Read what a `PgqrsWorker` declares.

    Args:
        resource: the resource.
        pod: the pod that owns it, if there is one and it is there.
        settings: of the operator.
        now: for the time that a drain has taken.
    """
    row_name, drain_over, problem = None, False, resource.problem
    if resource.spec is not None and not problem:
        try:
            row_name = resource.spec.worker_name(pod_owned=resource.pod_uid is not None)
            since = resource.deleting or _draining_since(resource)
            drain_over = since is not None and now - since > resource.spec.drain_limit()
        except InvalidSpecError as error:
            problem = str(error)
    return DesiredWorker(
        key=resource.key,
        owner=settings.owner(*resource.key),
        age=resource.age,
        row_name=row_name,
        pod_uid=resource.pod_uid,
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


def _draining_since(resource: Worker) -> datetime | None:
    """Since when a worker that is to be stopped has been draining, as its own condition says."""
    reconciling = verdicts.condition(resource.status, "Reconciling")
    if (
        resource.spec is None
        or resource.spec.state != "Stopped"
        or reconciling.get("reason") != "Draining"
        or reconciling.get("observedGeneration") != resource.generation
    ):
        return None
    return datetime.fromisoformat(reconciling["lastTransitionTime"])


def pod_worker(pod: Pod, settings: Settings) -> DesiredWorker:
    """Stand in for the `PgqrsWorker` of an injected pod that has none yet, or none any more."""
    return DesiredWorker(
        key=pod.key,
        owner=settings.owner(*pod.key),
        age=(pod.created, pod.uid),
        pod_uid=pod.uid,
        pod_ending=pod.ending,
    )


def lost_worker(row: FleetWorker, settings: Settings) -> DesiredWorker:
    """Stand in for the `PgqrsWorker` of a pod of which only rows are left."""
    key = Key(row.info.pod_namespace or "", row.info.pod_name or "")
    return DesiredWorker(
        key=key, owner=settings.owner(*key), age=("", row.info.pod_uid or ""), pod_uid=row.info.pod_uid
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


def desired(queues: Iterable[Queue], workers: Iterable[Worker], pods: Iterable[Pod], settings: Settings) -> Desired:
    """Put together what is declared about one database."""
    by_uid = {pod.uid: pod for pod in pods}
    now = datetime.now(UTC)
    found = [worker(resource, by_uid.get(resource.pod_uid or ""), settings, now=now) for resource in workers]
    named = {one.pod_uid for one in found}
    found += [pod_worker(pod, settings) for pod in by_uid.values() if pod.injected and pod.uid not in named]
    return Desired(queues=tuple(queue(resource, settings) for resource in queues), workers=tuple(found))
