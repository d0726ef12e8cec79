"""The workers of one pod together: what its sidecar does each interval, and what happens when the pod ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pgqrs import lifecycle, rows
from pgqrs.models import WorkerId, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from pgqrs.database import Database
    from pgqrs.models import PodIdentity, WorkerInfo

#: What PostgreSQL's bigint can hold; an id comes from another process and may be anything.
_MAX_ID = 2**63 - 1
#: What the kernel takes as a host name; the kubelet cuts the pod's name there.
_MAX_HOSTNAME = 63
_STATUS = {status.value: status for status in WorkerStatus}


class Pulse(NamedTuple):
    """What changes of a row from heartbeat to heartbeat."""

    status: WorkerStatus
    #: The heartbeat before this one.
    heartbeat_at: datetime | None
    #: Messages that it holds.
    leased: int


class Adopted(NamedTuple):
    """Rows that processes of a pod registered without knowing of pods."""

    #: Those that live and were taken over, now or before.
    ids: frozenset[WorkerId]
    #: Those that may be this pod's or that of another pod of the same name.
    ambiguous: frozenset[WorkerId]


async def beat(db: Database, pod_uid: str, *, silent: Collection[int] = ()) -> dict[WorkerId, Pulse]:
    """Send the heartbeat of every live row of the pod in one statement, and tell what became of these rows.

    Args:
        db: where.
        pod_uid: the pod.
        silent: ids that get no heartbeat, because their process does not answer.
    """
    found = await db.fetch("pods.beat", pod_uid, list(silent))
    return {row["id"]: Pulse(_STATUS[row["status"]], row["heartbeat_at"], row["leased"]) for row in found}


async def live(db: Database, pod_uid: str) -> list[WorkerInfo]:
    """Give the rows of the pod that are not stopped, with what they hold; nothing is changed."""
    return [rows.worker(row) for row in await db.fetch("pods.live", pod_uid)]


async def adopt(db: Database, pod: PodIdentity, *, seconds: float) -> Adopted:
    """Make the rows that unmodified apps in this pod registered the pod's own.

    Such an app calls itself by the host name that it sees (`POD`, or `POD-` and a uuid, which is what upstream's client
    invents), or by a name that it was given: `POD.NAMESPACE` or `POD.NAMESPACE.CLUSTER`. A port may follow, but not
    after an invented one. The names of the others are free again afterwards, and their rows go on as `NAME#ID`.

    Args:
        db: where.
        pod: whose rows.
        seconds: since when the pod is known to be there. What was registered before that and before the pod's own first
            row is left alone.
    """
    own = ".".join(filter(None, (pod.name, pod.namespace, pod.cluster)))
    seen = pod.name[:_MAX_HOSTNAME].rstrip("-.")
    hostnames = [pod.name, seen, f"{pod.name}.{pod.namespace}", own]
    found = await db.fetch(
        "pods.adopt", pod.uid, pod.name, pod.namespace, pod.cluster, hostnames, own, seen, float(seconds)
    )
    return Adopted(
        ids=frozenset(WorkerId(row["id"]) for row in found if not row["ambiguous"]),
        ambiguous=frozenset(WorkerId(row["id"]) for row in found if row["ambiguous"]),
    )


async def begin_termination(db: Database, pod_uid: str) -> list[WorkerInfo]:
    """Mark the pod's rows as ending: they get no new messages and nobody resumes them; what they hold is finished.

    Returns:
        The live rows of the pod afterwards, with what they hold.
    """
    async with db.transaction() as transaction:
        await transaction.fetch("pods.begin_termination", pod_uid)
        return [rows.worker(row) for row in await transaction.fetch("pods.live", pod_uid)]


async def suspend(db: Database, pod_uid: str) -> list[WorkerInfo]:
    """Suspend the ending rows of the pod that hold nothing any more; for the end of a drain.

    Returns:
        The live rows of the pod afterwards, with what they hold.
    """
    async with db.transaction() as transaction:
        await transaction.fetch("pods.suspend", pod_uid)
        return [rows.worker(row) for row in await transaction.fetch("pods.live", pod_uid)]


async def assign(db: Database, worker_id: int, *, pod_uid: str, queue: str, container: str | None) -> WorkerInfo | None:
    """Note that a process of the pod has taken a row.

    Args:
        db: where.
        worker_id: the row.
        pod_uid: the pod that the row must belong to.
        queue: the queue that the row must serve.
        container: where the process runs.

    Returns:
        The row with what it holds, or None if it is stopped, gone, another pod's or another queue's.
    """
    if not 0 < worker_id <= _MAX_ID:
        return None
    row = await db.fetch_row("pods.assign", worker_id, pod_uid, queue, container)
    return None if row is None else rows.worker(row)


async def stop(db: Database, pod_uid: str, *, reason: str) -> dict[WorkerId, int]:
    """Stop the pod's rows and free what they hold; for a pod that is known to have ended.

    Args:
        db: where.
        pod_uid: the pod.
        reason: why, for the rows' history.

    Returns:
        How many messages each stopped worker held.
    """
    ids = [row["id"] for row in await db.fetch("pods.to_stop", pod_uid)]
    return await lifecycle.stop(db, ids, reason=reason)
