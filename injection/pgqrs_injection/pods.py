"""Changes a labelled pod so that it works on its queue: the environment, the sidecar, the hooks, the grace period.

Pure: a pod and a queue in, a pod out. What the pod's author wrote stays; what is missing is filled in. The API server
may ask twice (another webhook changed the pod after us), so doing it again changes nothing.
"""

from __future__ import annotations

import copy
import secrets
from typing import TYPE_CHECKING, Any

from pgqrs_injection.containers import Maker
from pgqrs_injection.names import INJECTED_ANNOTATION, NO_TOKEN_VOLUME
from pgqrs_injection.options import resolve, sidecar_of
from pgqrs_injection.refusals import refuse_unsuitable

if TYPE_CHECKING:
    from pgqrs_injection.settings import Injection, QueueTarget

_VERSION = "v1"
_TOKEN_BYTES = 24


def inject(pod: dict[str, Any], queue: QueueTarget, settings: Injection, *, token: str | None = None) -> dict[str, Any]:
    """Give the pod as it has to be to work on the queue; the pod that was given is not changed.

    Args:
        pod: The pod, or the template of one.
        queue: The queue that its label names.
        settings: What holds for all pods.
        token: What the pod's processes and hooks show to the sidecar; None: a new random one. One that is there stays.

    Raises:
        RefusedError: the pod is written in a way that a sidecar cannot work with.
    """
    options = resolve(pod, settings)
    refuse_unsuitable(pod, options)
    injected = copy.deepcopy(pod)
    metadata, spec = injected["metadata"], injected["spec"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), INJECTED_ANNOTATION: _VERSION}

    initial = list(spec.get("initContainers") or [])
    written = sidecar_of(injected)
    token = options.token or token or secrets.token_urlsafe(_TOKEN_BYTES)
    maker = Maker(queue=queue, settings=settings, options=options, token=token)
    sidecar = maker.sidecar(written or {})
    if written is None:
        # Last: it starts after the sidecars it may need (a proxy to the database, a mesh) and ends before them.
        initial.append(sidecar)
    else:
        initial[initial.index(written)] = sidecar
    spec["initContainers"] = initial
    spec["containers"] = [
        maker.app(container) if options.containers is None or container["name"] in options.containers else container
        for container in spec["containers"]
    ]
    volumes = spec.get("volumes") or []
    if _is_mounted(sidecar) and all(volume["name"] != NO_TOKEN_VOLUME for volume in volumes):
        spec["volumes"] = [*volumes, {"name": NO_TOKEN_VOLUME, "emptyDir": {}}]
    if settings.raise_grace_period and options.grace < options.needed_grace:
        spec["terminationGracePeriodSeconds"] = options.needed_grace
    return injected


def warnings(pod: dict[str, Any], settings: Injection) -> list[str]:
    """What the author of a pod that is injected should know, as texts for `kubectl`; `pod` is the one from before.

    The API server cuts warnings at 120 characters.

    Raises:
        RefusedError: an annotation is unknown, its value is not allowed, or a variable's of the sidecar is not.
    """
    options = resolve(pod, settings)
    grace, needed, drain = options.grace, options.needed_grace, options.wanted_drain
    if grace >= needed:
        return []
    if settings.raise_grace_period:
        change = f"raised from {grace} to {needed}"
        return [f"pgqrs: terminationGracePeriodSeconds is {change} for a drain of up to {drain} s"]
    cut = f", which is cut to {options.drain_seconds}" if options.drain_seconds < drain else ""
    return [f"pgqrs: terminationGracePeriodSeconds should be {needed} or more for a drain of {drain} s{cut}"]


def _is_mounted(sidecar: dict[str, Any]) -> bool:
    return any(mount["name"] == NO_TOKEN_VOLUME for mount in sidecar["volumeMounts"])
