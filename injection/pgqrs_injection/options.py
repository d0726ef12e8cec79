"""What holds for one pod: its annotations over the installation's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pgqrs_injection import annotations
from pgqrs_injection.errors import RefusedError
from pgqrs_injection.names import GROUP, SIDECAR_CONTAINER
from pgqrs_injection.sidecar import excess
from pgqrs_injection.values import NONE

if TYPE_CHECKING:
    from pgqrs_injection.annotations import Annotation
    from pgqrs_injection.settings import Injection
    from pgqrs_injection.values import Kind

T = TypeVar("T")

#: What Kubernetes gives a pod that asks for nothing; the API server fills it in before a webhook sees the pod.
_DEFAULT_GRACE_SECONDS = 30
#: After the drain the app ends, and the sidecar stops the rows in about 2 s.
_ROOM_SECONDS = 5
#: The variables of the sidecar that others of its settings depend on.
DRAIN_VARIABLE = "PGQRS_DRAIN_SECONDS"
HTTP_PORT_VARIABLE = "PGQRS_SIDECAR_HTTP_PORT"
SESSION_PORT_VARIABLE = "PGQRS_SIDECAR_SESSION_PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one pod's injection is made from."""

    #: The grace period that the drain needs, in seconds.
    needed_grace: int
    #: The grace period that the pod has, in seconds.
    grace: int
    drain_seconds: int
    heartbeat_seconds: int
    connection_mode: str
    start_without_database: bool
    log_level: str
    http_port: int
    session_port: int
    #: The containers that get the environment and the hook; None: all.
    containers: tuple[str, ...] | None
    inject_dsn: bool
    resources: dict[str, dict[str, str]]


def sidecar_of(pod: dict[str, Any]) -> dict[str, Any] | None:
    """The sidecar that the pod has already, injected before or begun by its author."""
    initial = pod["spec"].get("initContainers") or []
    return next((container for container in initial if container["name"] == SIDECAR_CONTAINER), None)


def resolve(pod: dict[str, Any], settings: Injection) -> Options:
    """Read a pod's annotations and fill in what they leave open.

    Raises:
        RefusedError: an annotation is unknown or its value is not allowed.
    """
    found: dict[str, str] = pod["metadata"].get("annotations") or {}
    annotations.refuse_unknown(found)
    usual = settings.sidecar

    def said(annotation: Annotation[T], otherwise: T) -> T:
        value = annotation.read(found)
        return otherwise if value is None else value

    written = sidecar_of(pod) or {}
    grace = pod["spec"].get("terminationGracePeriodSeconds")
    grace = _DEFAULT_GRACE_SECONDS if grace is None else grace
    roomy = min(grace - _ROOM_SECONDS, annotations.LONGEST_DRAIN)
    drain = _written(
        written,
        DRAIN_VARIABLE,
        annotations.DRAIN,
        said(annotations.DRAIN_SECONDS, max(settings.drain_seconds, roomy)),
    )
    http = said(annotations.SIDECAR_HTTP_PORT, annotations.HTTP_PORT)
    session = said(annotations.SIDECAR_SESSION_PORT, annotations.SESSION_PORT)
    return Options(
        needed_grace=drain + _ROOM_SECONDS,
        grace=grace,
        drain_seconds=drain,
        heartbeat_seconds=said(annotations.HEARTBEAT_SECONDS, usual.heartbeat_seconds),
        connection_mode=said(annotations.CONNECTION, usual.connection_mode),
        start_without_database=said(annotations.START_WITHOUT_DATABASE, usual.start_without_database),
        log_level=said(annotations.LOG, usual.log_level),
        http_port=_written(written, HTTP_PORT_VARIABLE, annotations.PORT, http),
        session_port=_written(written, SESSION_PORT_VARIABLE, annotations.PORT, session),
        containers=annotations.CONTAINERS.read(found),
        inject_dsn=said(annotations.INJECT_DSN, otherwise=True),
        resources=_resources(found, usual.resources),
    )


def _written(sidecar: dict[str, Any], variable: str, kind: Kind[T], otherwise: T) -> T:
    """What the sidecar's environment says already: it stays, so everything else has to fit it."""
    for found in sidecar.get("env") or []:
        if found["name"] == variable and "value" in found:
            try:
                return kind.read(found["value"])
            except ValueError as error:
                source = f"{variable} of the container {SIDECAR_CONTAINER}"
                raise RefusedError(kind.complaint(source, found["value"])) from error
    return otherwise


def _resources(found: dict[str, str], usual: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    parts = {part: dict(usual.get(part, {})) for part in ("requests", "limits")}
    table = (
        (annotations.CPU_REQUEST, "requests", "cpu"),
        (annotations.MEMORY_REQUEST, "requests", "memory"),
        (annotations.CPU_LIMIT, "limits", "cpu"),
        (annotations.MEMORY_LIMIT, "limits", "memory"),
    )
    for annotation, part, name in table:
        value = annotation.read(found)
        if value == NONE:
            parts[part].pop(name, None)
        elif value is not None:
            parts[part][name] = value
    above = excess(parts)
    if above is not None:
        request, limit = parts["requests"][above], parts["limits"][above]
        message = (
            f"The sidecar's {above} request {request} is more than its limit {limit}; "
            f"set both annotations, {GROUP}/sidecar-{above}-request and {GROUP}/sidecar-{above}-limit."
        )
        raise RefusedError(message)
    return {part: amounts for part, amounts in parts.items() if amounts}
