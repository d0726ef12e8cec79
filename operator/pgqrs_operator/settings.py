"""What the operator is told by its environment; the names are those of `docs/design/interfaces.md`."""

from __future__ import annotations

import socket
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqrs_operator.logs import LEVELS

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_PORT = 65535
_MOST_QUEUES = 100_000


class SettingsError(ValueError):
    """A variable of the environment is missing or malformed; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment of the operator, read once."""

    #: Where the operator itself is installed, and the name of the Helm release.
    namespace: str = "pgqrs-system"
    release: str = "pgqrs"
    #: Who this process is among the operators of the release: `POD_ADDRESS`.
    identity: str = "pgqrs-operator_"
    #: The namespace whose resources and pods are looked after; None for all namespaces.
    watch_namespace: str | None = None
    #: Tells apart clusters that share a database; part of every owner that is written into a row.
    cluster: str | None = None
    #: Whether the webhook's certificate is ours to keep; else something like cert-manager does it.
    manage_webhook: bool = True
    health_port: int = 8080
    #: How many queues have series of their own in Prometheus.
    metrics_queues: int = 1000
    #: Whether busy pods are told from idle ones to the ReplicaSets that delete them.
    deletion_cost: bool = False
    log_level: str = "INFO"

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Settings:
        """Read `PGQRS_*`.

        Raises:
            SettingsError: a value is malformed.
        """

        def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
            value = environment.get(name) or default
            if value not in allowed:
                message = f"{name} is {value!r}; allowed are {', '.join(allowed)}."
                raise SettingsError(message)
            return value

        def number(name: str, default: int, most: int, what: str) -> int:
            value = environment.get(name) or str(default)
            if not value.isascii() or not value.isdigit() or int(value) > most:
                message = f"{name} is {value!r}; it is {what}, such as {default}."
                raise SettingsError(message)
            return int(value)

        return cls(
            namespace=environment.get("PGQRS_OPERATOR_NAMESPACE") or "pgqrs-system",
            release=environment.get("PGQRS_RELEASE") or "pgqrs",
            identity=_identity(environment),
            watch_namespace=environment.get("PGQRS_WATCH_NAMESPACE") or None,
            cluster=environment.get("PGQRS_CLUSTER") or None,
            manage_webhook=choice("PGQRS_MANAGE_WEBHOOK", "true", ("true", "false")) == "true",
            health_port=number("PGQRS_HEALTH_PORT", 8080, _MAX_PORT, "a TCP port"),
            metrics_queues=number("PGQRS_METRICS_QUEUES", 1000, _MOST_QUEUES, f"a number up to {_MOST_QUEUES}"),
            deletion_cost=choice("PGQRS_POD_DELETION_COST", "false", ("true", "false")) == "true",
            log_level=choice("PGQRS_LOG_LEVEL", "INFO", LEVELS),
        )

    def owner(self, namespace: str, name: str) -> str:
        """Name a resource as the column `owner` of a row does: `NAMESPACE/NAME`, or `CLUSTER/NAMESPACE/NAME`."""
        return "/".join([*([self.cluster] if self.cluster else []), namespace, name])

    def watches(self, owner: str) -> bool:
        """Tell whether the resource behind an `owner` would be among those that this operator watches."""
        *cluster, namespace, _ = owner.split("/") if owner.count("/") in {1, 2} else ("?", "?", "?", "?")
        if cluster != ([self.cluster] if self.cluster else []):
            return False
        return self.watch_namespace in {None, namespace}


def _identity(environment: Mapping[str, str]) -> str:
    # A pod's name is its own; outside of a pod there may be several processes on one machine.
    name = environment.get("PGQRS_POD_NAME") or f"{socket.gethostname()}-{uuid.uuid4()}"
    return f"{name}_{environment.get('PGQRS_POD_IP', '')}"
