"""What a process in a pod is told by its environment; the names are those of `docs/design/interfaces.md`."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqrs import errors, names, payloads
from pgqrs.models import PodIdentity

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SidecarAddress:
    """Where the pod's sidecar waits for sessions, and what proves that we belong to its pod."""

    host: str
    port: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment of this process, read once."""

    dsn: str | None
    schema: str
    queue: str | None
    hostname: str
    pod: PodIdentity | None
    sidecar: SidecarAddress | None
    #: The largest payload that a producer sends, in bytes of its JSON.
    max_payload_bytes: int
    #: Whether a worker waits for a database that is not there yet, instead of failing.
    start_without_database: bool

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read `PGQRS_*`.

        Raises:
            ConfigurationError: a value is malformed; the message names the variable.
        """
        env = os.environ if environment is None else environment
        uid = env.get("PGQRS_POD_UID")
        pod = None
        if uid:
            pod = PodIdentity(
                uid=uid,
                name=env.get("PGQRS_POD_NAME", ""),
                namespace=env.get("PGQRS_POD_NAMESPACE", ""),
                cluster=env.get("PGQRS_CLUSTER") or None,
                container=env.get("PGQRS_CONTAINER") or None,
            )
        return cls(
            dsn=env.get("PGQRS_DSN") or None,
            schema=names.schema_name(env.get("PGQRS_SCHEMA") or "public"),
            queue=env.get("PGQRS_QUEUE") or None,
            hostname=env.get("PGQRS_HOSTNAME") or socket.gethostname(),
            pod=pod,
            sidecar=_sidecar(env),
            max_payload_bytes=_bytes(env, "PGQRS_MAX_PAYLOAD_BYTES", payloads.DEFAULT_MAX_PAYLOAD_BYTES),
            start_without_database=_flag(env, "PGQRS_START_WITHOUT_DATABASE"),
        )


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name) or "false"
    if text not in {"true", "false"}:
        message = f"{name} is {names.shown(text)}; it is true or false."
        raise errors.ConfigurationError(message)
    return text == "true"


def _bytes(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name)
    if not text:
        return default
    # No payload of a digit more than this fits into PostgreSQL.
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) == 0:
        message = f"{name} is {names.shown(text)}; it is a number of bytes from 1 to 9999999999, such as {default}."
        raise errors.ConfigurationError(message)
    return int(text)


def _sidecar(env: Mapping[str, str]) -> SidecarAddress | None:
    address = env.get("PGQRS_SIDECAR")
    if not address:
        return None
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit():
        message = f"PGQRS_SIDECAR is {address!r}; it has the form HOST:PORT, such as 127.0.0.1:9191."
        raise errors.ConfigurationError(message)
    return SidecarAddress(host, int(port), env.get("PGQRS_SIDECAR_TOKEN", ""))
