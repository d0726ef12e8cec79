"""What the chart tells the injector by its environment, checked before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqrs_operator.injector.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The limits of a drain, in seconds: of the setting, and of the annotation `pgqrs.io/drain-seconds`.
MIN_DRAIN_SECONDS = 1
MAX_DRAIN_SECONDS = 3600
_DIGITS = re.compile(r"[0-9]{1,4}")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What is the same for every pod."""

    #: The sidecar's image.
    image: str
    pull_policy: str = "IfNotPresent"
    #: The name of this cluster, where several share a database.
    cluster: str | None = None
    #: The longest that a pod's drain may take, unless its annotation says otherwise.
    drain_seconds: int = 25
    #: Whether a pod's grace period is raised where the drain would not fit into it.
    raise_grace_period: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration of the injector's process."""

    #: Where the certificate's Secret is.
    namespace: str
    #: The certificate's Secret.
    secret_name: str
    injection: Injection

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Settings:
        """Read `PGQRS_*`.

        Raises:
            ConfigurationError: a variable is missing or not allowed; the message names it.
        """
        return cls(
            namespace=_text(environment, "PGQRS_OPERATOR_NAMESPACE"),
            secret_name=f"{_text(environment, 'PGQRS_RELEASE')}-webhook-certificate",
            injection=Injection(
                image=_text(environment, "PGQRS_SIDECAR_IMAGE"),
                pull_policy=_choice(environment, "PGQRS_SIDECAR_PULL_POLICY", "IfNotPresent", _PULL_POLICIES),
                cluster=environment.get("PGQRS_CLUSTER") or None,
                drain_seconds=drain_seconds(
                    environment.get("PGQRS_DRAIN_SECONDS") or "25", source="PGQRS_DRAIN_SECONDS"
                ),
                raise_grace_period=_choice(environment, "PGQRS_RAISE_GRACE_PERIOD", "true", ("true", "false"))
                == "true",
            ),
        )


def drain_seconds(text: str, *, source: str) -> int:
    """Read the longest time of a drain, in seconds.

    Raises:
        ConfigurationError: it is no whole number within the limits; the message names `source`.
    """
    value = int(text) if _DIGITS.fullmatch(text) else 0
    if not MIN_DRAIN_SECONDS <= value <= MAX_DRAIN_SECONDS:
        allowed = f"a whole number of seconds from {MIN_DRAIN_SECONDS} to {MAX_DRAIN_SECONDS}"
        message = f"{source} is {text[:40]!r}; allowed is {allowed}."
        raise ConfigurationError(message)
    return value


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        message = f"{name} is missing; the chart sets it."
        raise ConfigurationError(message)
    return value


def _choice(environment: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = environment.get(name) or default
    if value not in allowed:
        message = f"{name} is {value!r}; allowed are {', '.join(allowed)}."
        raise ConfigurationError(message)
    return value
