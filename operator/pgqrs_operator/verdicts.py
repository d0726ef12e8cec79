"""What is said about a resource: a verdict, and the conditions and status that follow from it. Pure; it does no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

#: The reason of what is as declared only because it is set right again and again.
CONTESTED = "Contested"
#: `Message` columns and `kubectl describe` become unreadable beyond.
_MESSAGE_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a resource is doing: exactly one of ready, waiting for something that may pass, or in need of somebody."""

    kind: Literal["ready", "waiting", "stalled"]
    #: One CamelCase word.
    reason: str
    #: What is the case and what to do; never with a password.
    message: str

    @property
    def ready(self) -> bool:
        """Whether what is declared is true."""
        return self.kind == "ready"

    @property
    def warns(self) -> bool:
        """Whether somebody should have a look."""
        return not self.ready or self.reason == CONTESTED


def ready(reason: str, message: str) -> Verdict:
    """What is declared is true."""
    return Verdict("ready", reason, message)


def waiting(reason: str, message: str) -> Verdict:
    """It is not true yet, and becomes so by itself."""
    return Verdict("waiting", reason, message)


def stalled(reason: str, message: str) -> Verdict:
    """It is not true, and somebody has to change something."""
    return Verdict("stalled", reason, message)


def conditions(
    verdict: Verdict, *, generation: int, previous: Sequence[Mapping[str, Any]], now: datetime
) -> list[dict[str, Any]]:
    """Write a verdict as the conditions Ready, Reconciling and Stalled.

    Args:
        verdict: what to say.
        generation: the generation of the resource that was judged.
        previous: the conditions as they stand; one whose status stays keeps its time.
        now: the time of those that change.
    """
    before = {condition.get("type"): condition for condition in previous}
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    for kind, holds in (
        ("Ready", verdict.kind == "ready"),
        ("Reconciling", verdict.kind == "waiting"),
        ("Stalled", verdict.kind == "stalled"),
    ):
        status = "True" if holds else "False"
        old = before.get(kind, {})
        about = holds or kind == "Ready"
        # As `resources.common.Condition`, whose checks would be most of a round over ten thousand resources.
        found.append(
            {
                "type": kind,
                "status": status,
                "reason": verdict.reason if about else f"Not{kind}",
                "message": _shortened(verdict.message) if about else "",
                "lastTransitionTime": old.get("lastTransitionTime", stamp) if old.get("status") == status else stamp,
                "observedGeneration": generation,
            }
        )
    return found


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_LENGTH else f"{message[: _MESSAGE_LENGTH - 1]}…"


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Find one condition in a status; an empty one where it is not there."""
    for found in status.get("conditions") or ():
        if found.get("type") == kind:
            return found if isinstance(found, dict) else {}
    return {}


def as_told(status: Mapping[str, Any], verdict: Verdict, generation: int) -> Verdict:
    """Give what is waited for in the words of before: how many messages are left is news once they are counted."""
    said = condition(status, "Ready")
    same = said.get("reason") == verdict.reason and said.get("observedGeneration") == generation
    return replace(verdict, message=said.get("message", "")) if verdict.kind == "waiting" and same else verdict


def says(status: Mapping[str, Any], verdict: Verdict, generation: int) -> bool:
    """Tell whether conditions that were written by `conditions` say this verdict of this generation."""
    ready, stalled_too = condition(status, "Ready"), condition(status, "Stalled")
    return (
        ready.get("reason") == verdict.reason
        and ready.get("observedGeneration") == generation
        and ready.get("status") == ("True" if verdict.kind == "ready" else "False")
        and stalled_too.get("status") == ("True" if verdict.kind == "stalled" else "False")
        and ready.get("message") == _shortened(verdict.message)
    )


def settled(status: Mapping[str, Any], generation: int) -> bool:
    """Tell whether all was as declared when this generation was looked at last; what differs is somebody's doing."""
    ready = condition(status, "Ready")
    return ready.get("status") == "True" and ready.get("observedGeneration") == generation


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Give the JSON merge patch (RFC 7386) that turns `old` into `new`; empty if they are the same."""
    patch: dict[str, Any] = {}
    for key in old.keys() - new.keys():
        patch[key] = None
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            deeper = merge_patch(before, value)
            if deeper:
                patch[key] = deeper
        elif key not in old or before != value:
            patch[key] = value
    return patch
