"""The pods that a sidecar cannot work in, each with what its author can do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from pgqrs_injection import table
from pgqrs_injection.errors import RefusedError
from pgqrs_injection.names import QUEUE_LABEL, SIDECAR_CONTAINER

if TYPE_CHECKING:
    from pgqrs_injection.options import Options

_SYSTEM_LABELS = ("kubernetes.io/os", "beta.kubernetes.io/os")


def refuse_unsuitable(pod: dict[str, Any], options: Options) -> None:
    """Let no pod through that could not work.

    Raises:
        RefusedError: this is one.
    """
    spec = pod["spec"]
    _refuse_host_network(spec, options)
    _refuse_windows(spec)
    if any(container["name"] == SIDECAR_CONTAINER for container in spec["containers"]):
        message = (
            f"The container name {SIDECAR_CONTAINER} is the injected sidecar's, which is an init container; "
            "give the container another name."
        )
        raise RefusedError(message)
    _refuse_unknown_containers(spec, options)
    _refuse_taken_ports(spec, options)


def _refuse_host_network(spec: dict[str, Any], options: Options) -> None:
    if spec.get("hostNetwork"):
        message = (
            f"A pod with hostNetwork cannot have a pgqrs sidecar: its ports {options.http_port} and "
            f"{options.session_port} would be the node's. Remove hostNetwork or the label {QUEUE_LABEL}."
        )
        raise RefusedError(message)


def _refuse_windows(spec: dict[str, Any]) -> None:
    system = (spec.get("os") or {}).get("name")
    selector = spec.get("nodeSelector") or {}
    places = ["spec.os.name"] if system == "windows" else []
    places += [f"nodeSelector {label}" for label in _SYSTEM_LABELS if selector.get(label) == "windows"]
    places += ["nodeAffinity"] if _wants_windows(spec) else []
    if places:
        message = (
            f"A pod for Windows nodes ({places[0]}) cannot have a pgqrs sidecar, which is a program for Linux. "
            f"Remove the label {QUEUE_LABEL}, and set PGQRS_DSN and PGQRS_QUEUE: the library works without a sidecar."
        )
        raise RefusedError(message)


def _wants_windows(spec: dict[str, Any]) -> bool:
    """Whether each of the alternatives of the pod's required node affinity is for Windows alone."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or []
    return bool(terms) and all(
        any(
            wish["key"] in _SYSTEM_LABELS and wish["operator"] == "In" and wish.get("values") == ["windows"]
            for wish in term.get("matchExpressions") or []
        )
        for term in terms
    )


def _refuse_unknown_containers(spec: dict[str, Any], options: Options) -> None:
    names = [container["name"] for container in spec["containers"]]
    for name in options.containers or ():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"The pod has {', '.join(names)}."
            message = f"The annotation {table.CONTAINERS.key} names {name!r}, no container of this pod. {hint}"
            raise RefusedError(message)


def _refuse_taken_ports(spec: dict[str, Any], options: Options) -> None:
    http, session = table.SIDECAR_HTTP_PORT, table.SIDECAR_SESSION_PORT
    if options.http_port == options.session_port:
        message = (
            f"The sidecar's two ports are both {options.http_port}; give one of them another by the annotation "
            f"{http.key} or {session.key}."
        )
        raise RefusedError(message)
    taken = {
        port["containerPort"]: container["name"]
        for container in [*spec["containers"], *(spec.get("initContainers") or [])]
        if container["name"] != SIDECAR_CONTAINER
        for port in container.get("ports") or []
        if port.get("protocol", "TCP") == "TCP"
    }
    for annotation, port in ((http, options.http_port), (session, options.session_port)):
        if port in taken:
            own = {options.http_port, options.session_port}
            free = next(number for number in range(port + 1, port + len(taken) + 4) if number not in {*taken, *own})
            message = (
                f"The container {taken[port]} has the port {port}, which the pgqrs sidecar listens at; "
                f'give the sidecar another by the annotation, such as {annotation.key}: "{free}".'
            )
            raise RefusedError(message)
