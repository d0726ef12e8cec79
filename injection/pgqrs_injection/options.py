"""What holds for one pod: its annotations over the installation's defaults.

A variable that the sidecar's container has already wins over both: it is what the sidecar will read, so the ports of
probes and hooks, what the app is told, and the grace period are made to fit it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pgqrs_injection import table
from pgqrs_injection.errors import RefusedError
from pgqrs_injection.names import GROUP, SIDECAR_CONTAINER
from pgqrs_injection.sidecar import excess
from pgqrs_injection.values import NONE

if TYPE_CHECKING:
    from pgqrs_injection.settings import Injection
    from pgqrs_injection.table import Annotation
    from pgqrs_injection.values import Kind

T = TypeVar("T")

#: What Kubernetes gives a pod that asks for nothing; the API server fills it in before a webhook sees the pod.
_DEFAULT_GRACE_SECONDS = 30
#: Between the end of the drain and that of the grace period. Up to 2 s go to the drain's last statement; then the app
#: gets its SIGTERM, and after its end the sidecar has its own, for which the kubelet gives 2 s at least in any case.
_ROOM_SECONDS = 5
#: The variables of the sidecar that others of its settings depend on.
DRAIN_VARIABLE = "PGQRS_DRAIN_SECONDS"
HTTP_PORT_VARIABLE = "PGQRS_SIDECAR_HTTP_PORT"
SESSION_PORT_VARIABLE = "PGQRS_SIDECAR_SESSION_PORT"
TOKEN_VARIABLE = "PGQRS_SIDECAR_TOKEN"  # noqa: S105 - the name of a variable, no token


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one pod's injection is made from."""

    #: The grace period that the pod has, in seconds.
    grace: int
    #: The longest drain that is asked for, in seconds.
    wanted_drain: int
    #: The longest drain that the sidecar is told: less where the grace period is shorter and must stay so.
    drain_seconds: int
    heartbeat_seconds: int
    connection_mode: str
    start_without_database: bool
    log_level: str
    http_port: int
    session_port: int
    #: The token that the sidecar has already.
    token: str | None
    #: The containers that get the environment and the hook; None: all.
    containers: tuple[str, ...] | None
    inject_dsn: bool
    resources: dict[str, dict[str, str]]

    @property
    def needed_grace(self) -> int:
        """The grace period that the drain needs, in seconds."""
        return self.wanted_drain + _ROOM_SECONDS


def sidecar_of(pod: dict[str, Any]) -> dict[str, Any] | None:
    """The sidecar that the pod has already, injected before or begun by its author."""
    initial = pod["spec"].get("initContainers") or []
    return next((container for container in initial if container["name"] == SIDECAR_CONTAINER), None)


def resolve(pod: dict[str, Any], settings: Injection) -> Options:
    """Read a pod's annotations and fill in what they leave open.

    Raises:
        RefusedError: an annotation is unknown, its value is not allowed, or a variable's of the sidecar is not.
    """
    found: dict[str, str] = pod["metadata"].get("annotations") or {}
    table.refuse_unknown(found)
    usual = settings.sidecar
    written = sidecar_of(pod) or {}

    def said(annotation: Annotation[T], otherwise: T) -> T:
        value = annotation.read(found)
        return otherwise if value is None else value

    grace = pod["spec"].get("terminationGracePeriodSeconds")
    grace = _DEFAULT_GRACE_SECONDS if grace is None else grace
    roomy = min(grace - _ROOM_SECONDS, table.LONGEST_DRAIN)
    wanted = said(table.DRAIN_SECONDS, max(settings.drain_seconds, roomy))
    fits = wanted if settings.raise_grace_period else min(wanted, max(roomy, 1))
    drain = _written(written, DRAIN_VARIABLE, table.DRAIN)
    http = _written(written, HTTP_PORT_VARIABLE, table.PORT)
    session = _written(written, SESSION_PORT_VARIABLE, table.PORT)
    return Options(
        grace=grace,
        wanted_drain=wanted if drain is None else drain,
        drain_seconds=fits if drain is None else drain,
        heartbeat_seconds=said(table.HEARTBEAT_SECONDS, usual.heartbeat_seconds),
        connection_mode=said(table.CONNECTION, usual.connection_mode),
        start_without_database=said(table.START_WITHOUT_DATABASE, usual.start_without_database),
        log_level=said(table.LOG, usual.log_level),
        http_port=said(table.SIDECAR_HTTP_PORT, table.HTTP_PORT) if http is None else http,
        session_port=said(table.SIDECAR_SESSION_PORT, table.SESSION_PORT) if session is None else session,
        token=_written(written, TOKEN_VARIABLE, table.TOKEN),
        containers=table.CONTAINERS.read(found),
        inject_dsn=said(table.INJECT_DSN, otherwise=True),
        resources=_resources(found, usual.resources),
    )


def _written(sidecar: dict[str, Any], variable: str, kind: Kind[T]) -> T | None:
    """What the sidecar's environment says already, None without it; the last of two of one name counts.

    Raises:
        RefusedError: it is not allowed, or not written as a plain value: only such a one can be told to the others.
    """
    said = [found for found in sidecar.get("env") or [] if found["name"] == variable]
    if not said:
        return None
    value = said[-1].get("value", "")
    try:
        return kind.read(value)
    except ValueError as error:
        source = f"{variable} of the container {SIDECAR_CONTAINER}"
        raise RefusedError(kind.complaint(source, value)) from error


def _resources(found: dict[str, str], usual: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    parts = {part: dict(usual.get(part, {})) for part in ("requests", "limits")}
    places = (
        (table.CPU_REQUEST, "requests", "cpu"),
        (table.MEMORY_REQUEST, "requests", "memory"),
        (table.CPU_LIMIT, "limits", "cpu"),
        (table.MEMORY_LIMIT, "limits", "memory"),
    )
    for annotation, part, name in places:
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
