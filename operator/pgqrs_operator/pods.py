"""What the operator has to know of a pod, read from the object that the API server gives. Pure.

A pod counts as ended only where nothing of it can be running: it is gone, its phase is final, or no container of it
runs. A node that fell silent proves nothing, so it is no reason here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgqrs_operator.facts import Key
from pgqrs_operator.names import INJECTED_ANNOTATION, QUEUE_LABEL, SIDECAR_CONTAINER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FINAL_PHASES = ("Succeeded", "Failed")
GONE = "pod deleted"


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


def read(body: Mapping[str, Any]) -> Pod:
    """Read a pod as the API server gives it."""
    metadata = body.get("metadata", {})
    spec = body.get("spec", {})
    status = body.get("status", {})
    annotations = metadata.get("annotations") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    ended, final = _end(status)
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
    )


def version(metadata: Mapping[str, Any]) -> int:
    """Give the resource version as a number, which is how the API server orders them; 0 where there is none."""
    text = str(metadata.get("resourceVersion") or "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _end(status: Mapping[str, Any]) -> tuple[str | None, bool]:
    states = status.get("containerStatuses") or ()
    sidecar = [s for s in status.get("initContainerStatuses") or () if s.get("name") == SIDECAR_CONTAINER]
    sidecar += [s for s in states if s.get("name") == SIDECAR_CONTAINER]
    apps = [s for s in states if s.get("name") != SIDECAR_CONTAINER]
    if status.get("phase") in _FINAL_PHASES:
        return _reason(apps) or f"pod {str(status['phase']).lower()}{_detail(status)}", True
    if apps and sidecar and all(_terminated(s) for s in [*apps, *sidecar]):
        return _reason(apps) or "no container of the pod runs", False
    return None, False


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
        text = f"container {container.get('name')}: {last.get('reason') or 'ended'} ({code})"
        if code:
            return text
        found = found or text
    return found


def _detail(status: Mapping[str, Any]) -> str:
    return f": {status['reason']}" if status.get("reason") else ""
