"""What all sidecars of an installation have in common, as the chart's `injector.sidecar` says it."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pgqrs_injection import quantities, table, values
from pgqrs_injection.errors import ConfigurationError

T = TypeVar("T")

_NON_ROOT = 65532
_QUANTITY = values.quantity("100m", least="0")
_FIELDS = ("resources", "securityContext", "heartbeatSeconds", "connectionMode", "startWithoutDatabase", "logLevel")
_SECURITY_FIELDS = (
    "allowPrivilegeEscalation",
    "appArmorProfile",
    "capabilities",
    "privileged",
    "procMount",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seLinuxOptions",
    "seccompProfile",
)


def _resources() -> dict[str, dict[str, str]]:
    return {"requests": {"cpu": "5m", "memory": "48Mi"}, "limits": {"memory": "96Mi"}}


def _security_context() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsGroup": _NON_ROOT,
        "runAsNonRoot": True,
        "runAsUser": _NON_ROOT,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarDefaults:
    """What holds for a sidecar unless its pod says otherwise; the chart's values have the same defaults."""

    resources: dict[str, dict[str, str]] = field(default_factory=_resources)
    security_context: dict[str, Any] = field(default_factory=_security_context)
    heartbeat_seconds: int = 5
    connection_mode: str = "persistent"
    start_without_database: bool = False
    log_level: str = "INFO"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> SidecarDefaults:
        """Read them from a JSON object with the names of the chart's values.

        Args:
            text: The JSON.
            source: Where it comes from, for errors.

        Raises:
            ConfigurationError: something in it is not allowed; the message names the field.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            message = f"{source} is no JSON ({error})."
            raise ConfigurationError(message) from error
        read = _Reader(source, found)
        usual = cls()
        read.known(*_FIELDS)
        return cls(
            resources=read.resources(usual.resources),
            security_context=read.security_context(usual.security_context),
            heartbeat_seconds=read.one("heartbeatSeconds", table.HEARTBEAT, usual.heartbeat_seconds),
            connection_mode=read.one("connectionMode", table.CONNECTION_MODE, usual.connection_mode),
            start_without_database=read.one("startWithoutDatabase", table.SWITCH, usual.start_without_database),
            log_level=read.one("logLevel", table.LOG_LEVEL, usual.log_level),
        )


def excess(resources: dict[str, dict[str, str]]) -> str | None:
    """Name a resource whose request is above its limit, which Kubernetes refuses; None if there is none."""
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for name in requests.keys() & limits.keys():
        if quantities.amount(requests[name]) > quantities.amount(limits[name]):
            return name
    return None


class _Reader:
    """Reads fields of a JSON object and says which one is wrong."""

    def __init__(self, source: str, found: Any) -> None:
        self._source = source
        if not isinstance(found, dict):
            message = f"{source} is no JSON object."
            raise ConfigurationError(message)
        #: What it reads from; Helm leaves a null where a value is taken away.
        self.fields: dict[str, Any] = {name: value for name, value in found.items() if value is not None}

    def known(self, *names: str) -> None:
        for name in self.fields:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(names)}."
                message = f"{self._source} has an unknown field {name[:40]!r}; {hint}"
                raise ConfigurationError(message)

    def one(self, name: str, kind: values.Kind[T], default: T) -> T:
        if name not in self.fields:
            return default
        value = self.fields[name]
        try:
            return kind.read(value)
        except ValueError as error:
            raise ConfigurationError(kind.complaint(f"{self._source}: {name}", value)) from error

    def within(self, name: str) -> _Reader | None:
        """The object in a field, None without one."""
        return _Reader(f"{self._source}: {name}", self.fields[name]) if name in self.fields else None

    def security_context(self, default: dict[str, Any]) -> dict[str, Any]:
        inner = self.within("securityContext")
        if inner is None:
            return default
        inner.known(*_SECURITY_FIELDS)
        return inner.fields

    def resources(self, default: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        inner = self.within("resources")
        if inner is None:
            return default
        inner.known("requests", "limits")
        found = {part: inner.quantities(part) for part in inner.fields}
        above = excess(found)
        if above is not None:
            message = f"{self._source}: resources.requests.{above} is more than resources.limits.{above}."
            raise ConfigurationError(message)
        return found

    def quantities(self, name: str) -> dict[str, str]:
        inner = self.within(name)
        return {} if inner is None else {key: inner.one(key, _QUANTITY, "") for key in inner.fields}
