"""What the operator has to know of a pod, read from the object that the API server gives. Pure.

A pod counts as ended only where nothing of it can be running: it is gone, its phase is final, or no container of it
runs. A node that fell silent proves nothing, so it is no reason here. Where containers were started anew in a pod that
goes on, only those of their processes are over that began before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from pgqrs.fleet import ContainerEnd
from pgqrs_operator.facts import Key
from pgqrs_operator.names import DELETION_COST_ANNOTATION, INJECTED_ANNOTATION, QUEUE_LABEL, SIDECAR_CONTAINER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FINAL_PHASES = ("Succeeded", "Failed")
_STATES = {"running", "waiting", "terminated"}
_GONE = "pod deleted"
_CONTAINER = "container "
#: What the clocks of a node and of the database may differ.
_CLOCKS_DIFFER = timedelta(seconds=5)


class Restart(NamedTuple):
    """App containers that ended while the pod goes on."""

    #: What registered before is over, by the node's clock and with a margin; None where no app container runs at all.
    before: datetime | None
    #: How one of them ended.
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A labelled pod."""

    key: Key
    uid: str
    version: int
    created: str
    queue: str
    #: It has our sidecar.
    injected: bool
    #: It is being deleted; its containers may still run.
    ending: bool
    #: Why it has ended, or None while anything of it may run.
    ended: str | None
    #: The end is of the kind that cannot be undone: a phase is final, containers may be restarted.
    final: bool
    #: What else is known of why it ends or has to: who evicted it, how its containers ended.
    clues: str = ""
    #: Its app containers that ended, if any did.
    restart: Restart | None = None
    #: How app containers ended, as far as the pod still shows it.
    ends: tuple[ContainerEnd, ...] = ()
    #: When the last of its containers ended, by the node's clock, where it has ended and says so.
    ended_at: datetime | None = None
    #: A ReplicaSet looks after it, which asks for the cost of deleting it; and what that says now.
    replicated: bool = False
    deletion_cost: str | None = None


def read(body: Mapping[str, Any]) -> Pod:
    """Read a pod as the API server gives it."""
    metadata = body.get("metadata", {})
    spec = body.get("spec", {})
    status = body.get("status", {})
    annotations = metadata.get("annotations") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    apps = [s for s in status.get("containerStatuses") or () if s.get("name") != SIDECAR_CONTAINER]
    ended, final = _end(status, apps)
    return Pod(
        key=Key(metadata.get("namespace", ""), metadata.get("name", "")),
        uid=metadata.get("uid", ""),
        version=version(metadata),
        created=metadata.get("creationTimestamp", ""),
        queue=(metadata.get("labels") or {}).get(QUEUE_LABEL, ""),
        injected=INJECTED_ANNOTATION in annotations or any(c.get("name") == SIDECAR_CONTAINER for c in containers),
        ending="deletionTimestamp" in metadata,
        ended=ended,
        final=final,
        clues=_clues(status, apps),
        restart=_restart(apps),
        ends=_ends(metadata.get("uid", ""), apps),
        ended_at=None if ended is None else _ended_at(status),
        replicated=any(
            owner.get("controller") and owner.get("kind") == "ReplicaSet"
            for owner in metadata.get("ownerReferences") or ()
        ),
        deletion_cost=annotations.get(DELETION_COST_ANNOTATION),
    )


def version(metadata: Mapping[str, Any]) -> int:
    """Give the resource version as a number, which is how the API server orders them; 0 where there is none."""
    text = str(metadata.get("resourceVersion") or "")
    return int(text) if text.isascii() and text.isdigit() else 0


def gone(last: Pod | None) -> str:
    """Say that a pod is gone, and what was seen of its end before.

    Args:
        last: how it was last seen, if it was.
    """
    clues = last.clues if last else ""
    return f"{_GONE}: {clues}" if clues else _GONE


def as_gone(last: Pod) -> Pod:
    """Give a pod as it is once it is gone; it has ended for good."""
    return replace(last, ended=last.ended or gone(last), final=True, restart=None)


def is_gone(reason: str) -> bool:
    """Tell whether a reason says that the pod is gone."""
    return reason.startswith(_GONE)


def is_own_end(reason: str) -> bool:
    """Tell whether a reason says that a container ended by itself: nobody deleted or evicted its pod."""
    return reason.startswith(_CONTAINER)


def _end(status: Mapping[str, Any], apps: Sequence[Mapping[str, Any]]) -> tuple[str | None, bool]:
    sidecar = [
        container
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
        if container.get("name") == SIDECAR_CONTAINER
    ]
    if status.get("phase") in _FINAL_PHASES:
        phase = f"pod {str(status['phase']).lower()}"
        return f"{phase}: {_clues(status, apps)}" if _disruption(status) else _reason(apps) or phase, True
    if apps and sidecar and all(_terminated(s) for s in [*apps, *sidecar]):
        return _reason(apps) or "no container of the pod runs", False
    return None, False


def _restart(apps: Sequence[Mapping[str, Any]]) -> Restart | None:
    """Give what is over of a pod's app containers; our sidecar is none of them, it knows its own processes best."""
    reason = _reason(apps)
    states = [app.get("state") or {} for app in apps]
    if reason is None or not all(_STATES & state.keys() for state in states):
        return None
    starts = [state["running"].get("startedAt") for state in states if "running" in state]
    if not all(starts):
        return None
    return Restart(min(map(datetime.fromisoformat, starts)) - _CLOCKS_DIFFER if starts else None, reason)


def _ended_at(status: Mapping[str, Any]) -> datetime | None:
    """Give when the last container ended that says so."""
    found = []
    for container in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            at = (state.get("terminated") or {}).get("finishedAt")
            if at:
                found.append(datetime.fromisoformat(at))
    return max(found, default=None)


def _terminated(container: Mapping[str, Any]) -> bool:
    """It ended and does not run now; one that never ran may just be about to start."""
    state = container.get("state") or {}
    if "running" in state:
        return False
    return "terminated" in state or "terminated" in (container.get("lastState") or {})


def _reason(containers: Sequence[Mapping[str, Any]]) -> str | None:
    """Say how the containers ended; one that failed says more than one that succeeded."""
    found = None
    for container in containers:
        last = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
        if not last:
            continue
        code = last.get("exitCode", 0)
        text = _CONTAINER + _how(container, last)
        if code:
            return text
        found = found or text
    return found


def _how(container: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    return f"{container.get('name')}: {last.get('reason') or 'ended'} ({last.get('exitCode', 0)})"


def _ends(uid: str, apps: Sequence[Mapping[str, Any]]) -> tuple[ContainerEnd, ...]:
    """Give the last end of each app container that says from when to when it ran."""
    found = []
    for container in apps:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            last = state.get("terminated") or {}
            began, ended = last.get("startedAt"), last.get("finishedAt")
            if began and ended:
                found.append(
                    ContainerEnd(
                        pod_uid=uid,
                        container=str(container.get("name")),
                        began=datetime.fromisoformat(began),
                        ended=datetime.fromisoformat(ended),
                        reason=_CONTAINER + _how(container, last),
                    )
                )
    return tuple(found)


def _clues(status: Mapping[str, Any], apps: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(filter(None, (_disruption(status), _reason(apps))))


def _disruption(status: Mapping[str, Any]) -> str:
    """Say in a word who ends the pod against its will, such as EvictionByEvictionAPI; nothing if nobody does."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return str(condition.get("reason") or "")
    return str(status.get("reason") or "")
