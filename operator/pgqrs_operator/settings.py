"""What the operator is told by its environment; the names are those of `docs/design/interfaces.md`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class SettingsError(ValueError):
    """A variable of the environment is missing or malformed; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment of the operator, read once."""

    #: The namespace whose resources and pods are looked after; None for all namespaces.
    watch_namespace: str | None = None
    #: Tells apart clusters that share a database; part of every owner that is written into a row.
    cluster: str | None = None
    health_port: int = 8080

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read `PGQRS_*`.

        Raises:
            SettingsError: a value is malformed.
        """
        env = os.environ if environment is None else environment
        port = env.get("PGQRS_HEALTH_PORT") or "8080"
        if not port.isascii() or not port.isdigit() or not 0 <= int(port) < 2**16:
            message = f"PGQRS_HEALTH_PORT is {port!r}; it is a TCP port, such as 8080."
            raise SettingsError(message)
        return cls(
            watch_namespace=env.get("PGQRS_WATCH_NAMESPACE") or None,
            cluster=env.get("PGQRS_CLUSTER") or None,
            health_port=int(port),
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
