"""What the chart tells the injector by its environment, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pgqrs_injection import table, values
from pgqrs_injection.errors import ConfigurationError
from pgqrs_injection.settings import PULL_POLICIES, Injection
from pgqrs_injection.sidecar import SidecarDefaults

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

_DEFAULTS = "PGQRS_SIDECAR_DEFAULTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration of the injector's process."""

    #: Where the certificate's Secret is.
    namespace: str
    #: The certificate's Secret.
    secret_name: str
    injection: Injection
    #: Whether a pod whose queue does not exist is let in as it is, instead of refused.
    admit_unknown_queue: bool = False

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Settings:
        """Read `PGQRS_*`.

        Raises:
            ConfigurationError: a variable is missing or not allowed; the message names it.
        """
        unknown_queue = _one(environment, "PGQRS_UNKNOWN_QUEUE", values.choice("Refuse", "Admit"), "Refuse")
        return cls(
            namespace=_text(environment, "PGQRS_OPERATOR_NAMESPACE"),
            secret_name=f"{_text(environment, 'PGQRS_RELEASE')}-webhook-certificate",
            injection=Injection(
                image=_text(environment, "PGQRS_SIDECAR_IMAGE"),
                pull_policy=_one(
                    environment, "PGQRS_SIDECAR_PULL_POLICY", values.choice(*PULL_POLICIES), "IfNotPresent"
                ),
                cluster=environment.get("PGQRS_CLUSTER") or None,
                drain_seconds=_one(environment, "PGQRS_DRAIN_SECONDS", table.DRAIN, 25),
                raise_grace_period=_one(environment, "PGQRS_RAISE_GRACE_PERIOD", table.SWITCH, default=True),
                sidecar=SidecarDefaults.from_json(environment.get(_DEFAULTS) or "{}", source=_DEFAULTS),
            ),
            admit_unknown_queue=unknown_queue == "Admit",
        )


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        message = f"{name} is missing; the chart sets it."
        raise ConfigurationError(message)
    return value


def _one(environment: Mapping[str, str], name: str, kind: values.Kind[T], default: T) -> T:
    value = environment.get(name)
    if not value:
        return default
    try:
        return kind.read(value)
    except ValueError as error:
        raise ConfigurationError(kind.complaint(name, value)) from error
