"""Changes a labelled pod so that it works on its queue: the environment, the sidecar, the hooks, the grace period.

Pure: a pod and a queue in, a pod out. What the pod's author wrote stays; what is missing is filled in. The API server
may ask twice (another webhook changed the pod after us), so doing it again changes nothing.
"""

from __future__ import annotations

import copy
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgqrs_operator.injector import settings as injector_settings
from pgqrs_operator.injector.errors import ConfigurationError, RefusedError
from pgqrs_operator.names import DRAIN_ANNOTATION, INJECTED_ANNOTATION, QUEUE_LABEL, SIDECAR_CONTAINER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgqrs_operator.injector.settings import Injection

_VERSION = "v1"
_HTTP_PORT = 9190
_SESSION_PORT = 9191
_TOKEN_VARIABLE = "PGQRS_SIDECAR_TOKEN"  # noqa: S105 - the name of a variable, no token
_TOKEN_BYTES = 24
_NON_ROOT = 65532
_HEARTBEAT_SECONDS = 5
#: What Kubernetes gives a pod that asks for nothing; the API server fills it in before a webhook sees the pod.
_DEFAULT_GRACE_SECONDS = 30
#: The sidecar stops the rows after the drain, in about 2 s; less room than this is too little.
_LEAST_ROOM_SECONDS = 5
_ROOM_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTarget:
    """What a pod must know of the queue that its label names."""

    #: The queue's name in the database.
    queue: str
    #: The Secret with the database's address, in the pod's namespace.
    secret: str
    #: The key in that Secret.
    key: str
    #: Where the tables are.
    schema: str = "public"


def drain_seconds(pod: dict[str, Any], settings: Injection) -> int:
    """The longest time that this pod's drain may take, in seconds.

    Raises:
        RefusedError: the annotation `pgqrs.io/drain-seconds` is not allowed.
    """
    text = (pod["metadata"].get("annotations") or {}).get(DRAIN_ANNOTATION)
    if text is None:
        return settings.drain_seconds
    try:
        return injector_settings.drain_seconds(text, source=f"The annotation {DRAIN_ANNOTATION}")
    except ConfigurationError as error:
        raise RefusedError(str(error)) from error


def inject(pod: dict[str, Any], queue: QueueTarget, settings: Injection) -> dict[str, Any]:
    """Give the pod as it has to be to work on the queue; the pod that was given is not changed.

    Raises:
        RefusedError: the pod is written in a way that a sidecar cannot work with.
    """
    _refuse_unsuitable(pod)
    drain = drain_seconds(pod, settings)
    injected = copy.deepcopy(pod)
    metadata, spec = injected["metadata"], injected["spec"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), INJECTED_ANNOTATION: _VERSION}

    initial = list(spec.get("initContainers") or [])
    written = next((container for container in initial if container["name"] == SIDECAR_CONTAINER), None)
    token = _token(written) or secrets.token_urlsafe(_TOKEN_BYTES)
    sidecar = _sidecar(written or {}, queue, settings, drain=drain, token=token)
    if written is None:
        # Last: it starts after the sidecars it may need (a proxy to the database, a mesh) and ends before them.
        initial.append(sidecar)
    else:
        initial[initial.index(written)] = sidecar
    spec["initContainers"] = initial
    spec["containers"] = [_app(container, queue, settings, token=token) for container in spec["containers"]]

    if settings.raise_grace_period and _grace_is_short(spec, drain):
        spec["terminationGracePeriodSeconds"] = drain + _ROOM_SECONDS
    return injected


def warnings(pod: dict[str, Any], settings: Injection) -> list[str]:
    """What the author of an injected pod should know, as texts for `kubectl`.

    Raises:
        RefusedError: the annotation `pgqrs.io/drain-seconds` is not allowed.
    """
    drain = drain_seconds(pod, settings)
    if not _grace_is_short(pod["spec"], drain):
        return []
    # The API server cuts warnings at 120 characters.
    return [f"pgqrs: terminationGracePeriodSeconds should be {drain + _ROOM_SECONDS} or more for a drain of {drain} s"]


def _refuse_unsuitable(pod: dict[str, Any]) -> None:
    if pod["spec"].get("hostNetwork"):
        message = (
            f"A pod with hostNetwork cannot have a pgqrs sidecar: its ports {_HTTP_PORT} and {_SESSION_PORT} would be "
            f"the node's. Remove hostNetwork or the label {QUEUE_LABEL}."
        )
        raise RefusedError(message)
    if any(container["name"] == SIDECAR_CONTAINER for container in pod["spec"]["containers"]):
        message = (
            f"The container name {SIDECAR_CONTAINER} is the injected sidecar's, which is an init container; "
            "give the container another name."
        )
        raise RefusedError(message)


def _grace_is_short(spec: dict[str, Any], drain: int) -> bool:
    grace: int | None = spec.get("terminationGracePeriodSeconds")
    return (_DEFAULT_GRACE_SECONDS if grace is None else grace) < drain + _LEAST_ROOM_SECONDS


def _token(sidecar: dict[str, Any] | None) -> str | None:
    """The token of a sidecar that was injected before."""
    for variable in (sidecar or {}).get("env") or []:
        if variable["name"] == _TOKEN_VARIABLE:
            token: str | None = variable.get("value")
            return token
    return None


def _app(container: dict[str, Any], queue: QueueTarget, settings: Injection, *, token: str) -> dict[str, Any]:
    changed = {**container}
    changed["env"] = _environment(container, queue, settings, token=token)
    lifecycle = container.get("lifecycle") or {}
    # This hook holds SIGTERM back until the drain is done, so an app that ignores or obeys SIGTERM drains alike.
    changed["lifecycle"] = {"preStop": _drain_hook(token), **lifecycle}
    return changed


def _sidecar(
    written: dict[str, Any], queue: QueueTarget, settings: Injection, *, drain: int, token: str
) -> dict[str, Any]:
    own = [
        {"name": "PGQRS_SIDECAR_HTTP_PORT", "value": str(_HTTP_PORT)},
        {"name": "PGQRS_SIDECAR_SESSION_PORT", "value": str(_SESSION_PORT)},
        {"name": "PGQRS_DRAIN_SECONDS", "value": str(drain)},
        {"name": "PGQRS_HEARTBEAT_SECONDS", "value": str(_HEARTBEAT_SECONDS)},
    ]
    made = {
        "name": SIDECAR_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        # What makes an init container a native sidecar: it stays, and it ends after the app's containers.
        "restartPolicy": "Always",
        "lifecycle": {"preStop": _drain_hook(token)},
        "startupProbe": _probe("/started", periodSeconds=1, failureThreshold=120, timeoutSeconds=2),
        "livenessProbe": _probe("/live", periodSeconds=10, failureThreshold=3, timeoutSeconds=5),
        "resources": {"requests": {"cpu": "5m", "memory": "48Mi"}, "limits": {"memory": "96Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsGroup": _NON_ROOT,
            "runAsNonRoot": True,
            "runAsUser": _NON_ROOT,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    environment = _environment({**written, "name": SIDECAR_CONTAINER}, queue, settings, token=token, more=own)
    return {**made, **written, "env": environment}


def _environment(
    container: dict[str, Any],
    queue: QueueTarget,
    settings: Injection,
    *,
    token: str,
    more: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """The container's environment with what is missing at its end.

    The order counts: `$(NAME)` is replaced only where NAME stands further up.
    """
    hostname = "$(PGQRS_POD_NAME).$(PGQRS_POD_NAMESPACE)" + (
        f".{_literal(settings.cluster)}" if settings.cluster else ""
    )
    wanted: list[dict[str, Any]] = [
        {"name": "PGQRS_DSN", "valueFrom": {"secretKeyRef": {"name": queue.secret, "key": queue.key}}},
        *([{"name": "PGQRS_SCHEMA", "value": _literal(queue.schema)}] if queue.schema != "public" else []),
        {"name": "PGQRS_QUEUE", "value": _literal(queue.queue)},
        _downward("PGQRS_POD_NAME", "metadata.name"),
        _downward("PGQRS_POD_NAMESPACE", "metadata.namespace"),
        _downward("PGQRS_POD_UID", "metadata.uid"),
        *([{"name": "PGQRS_CLUSTER", "value": _literal(settings.cluster)}] if settings.cluster else []),
        {"name": "PGQRS_HOSTNAME", "value": hostname},
        {"name": "PGQRS_CONTAINER", "value": container["name"]},
        {"name": "PGQRS_SIDECAR", "value": f"127.0.0.1:{_SESSION_PORT}"},
        {"name": _TOKEN_VARIABLE, "value": token},
        *more,
    ]
    # A token that is not the pod's opens nothing, so this one variable is never the author's.
    kept = [
        variable
        for variable in container.get("env") or []
        if variable["name"] != _TOKEN_VARIABLE or variable.get("value") == token
    ]
    names = {variable["name"] for variable in kept}
    return kept + [variable for variable in wanted if variable["name"] not in names]


def _literal(text: str) -> str:
    """Write a text so that Kubernetes does not take a `$(NAME)` in it for a reference."""
    return text.replace("$", "$$")


def _downward(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _drain_hook(token: str) -> dict[str, Any]:
    return {"httpGet": {"path": f"/drain?token={token}", "port": _HTTP_PORT, "scheme": "HTTP"}}


def _probe(path: str, **limits: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": _HTTP_PORT, "scheme": "HTTP"}, **limits}
