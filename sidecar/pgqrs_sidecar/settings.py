"""What the sidecar is told by its environment, checked before anything starts; the names are those of `interfaces.md`.

A wrong value ends the sidecar with a message that names the variable and what is allowed. The message never quotes a
value that may hold a secret.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pgqrs import errors, names
from pgqrs.database import check_dsn
from pgqrs.models import PodIdentity
from pgqrs_injection.names import TOKEN_PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_MAX_PORT = 65535
_MAX_SECONDS = 86400.0


class ConnectionMode(StrEnum):
    """What the sidecar keeps open to PostgreSQL while it has nothing to say."""

    #: One connection.
    PERSISTENT = "persistent"
    #: None; each burst of statements opens one. Dearer for both sides, for servers whose connections are few.
    SHORT_LIVED = "shortLived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the sidecar listens; 0 takes any free port, which the first log line tells."""

    #: Health and drain, at every address of the pod, because the kubelet calls it there.
    http: int = 9190
    #: Sessions, on loopback only.
    session: int = 9191


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """All limits and intervals, in seconds."""

    #: The longest that a drain may take.
    drain: float = 25.0
    #: Between two heartbeats of the pod's rows.
    heartbeat: float = 5.0
    #: Between two pings of a session.
    ping: float = 2.0
    #: A process that has not answered a ping for so long gets no heartbeats.
    pong: float = 10.0
    #: How long rows from before a restart of the sidecar wait for their processes to come back.
    rejoin: float = 10.0
    #: How long a new connection may take to say hello.
    hello: float = 5.0
    #: How long the pod waits for the database at its start, where it may start without.
    start: float = 10.0
    #: A sidecar that has no row for so long ends, and the kubelet starts it anew; sooner than the startup probe fails.
    give_up: float = 110.0


_PORTS = Ports()
_TIMES = Times()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration; its `repr` holds no secret."""

    dsn: str = field(repr=False)
    token: str = field(repr=False)
    schema: str
    queue: str
    hostname: str
    pod: PodIdentity
    ports: Ports
    times: Times
    max_sessions: int
    log_level: str
    connection_mode: ConnectionMode
    #: Whether the pod counts as started after a while also without a row in the database.
    start_without_database: bool

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Settings:
        """Read `PGQRS_*`.

        Raises:
            ConfigurationError: a variable is missing or not allowed; the message names it.
        """
        env = _Environment(environment)
        times = Times(
            drain=env.seconds("PGQRS_DRAIN_SECONDS", _TIMES.drain, least=0.0),
            heartbeat=env.seconds("PGQRS_HEARTBEAT_SECONDS", _TIMES.heartbeat),
            ping=env.seconds("PGQRS_PING_SECONDS", _TIMES.ping),
            pong=env.seconds("PGQRS_PONG_SECONDS", _TIMES.pong),
            rejoin=env.seconds("PGQRS_REJOIN_SECONDS", _TIMES.rejoin),
            hello=env.seconds("PGQRS_HELLO_SECONDS", _TIMES.hello),
            start=env.seconds("PGQRS_START_SECONDS", _TIMES.start),
            give_up=env.seconds("PGQRS_GIVE_UP_SECONDS", _TIMES.give_up),
        )
        if times.pong <= times.ping:
            message = f"PGQRS_PONG_SECONDS is {times.pong:g}; allowed is more than PGQRS_PING_SECONDS ({times.ping:g})."
            raise errors.ConfigurationError(message)
        return cls(
            dsn=env.dsn(),
            token=env.token(),
            schema=env.schema(),
            queue=env.queue(),
            hostname=env.hostname(),
            pod=PodIdentity(
                uid=env.text("PGQRS_POD_UID"),
                name=env.text("PGQRS_POD_NAME"),
                namespace=env.text("PGQRS_POD_NAMESPACE"),
                cluster=environment.get("PGQRS_CLUSTER") or None,
            ),
            ports=Ports(
                http=env.number("PGQRS_SIDECAR_HTTP_PORT", _PORTS.http, least=0, most=_MAX_PORT),
                session=env.number("PGQRS_SIDECAR_SESSION_PORT", _PORTS.session, least=0, most=_MAX_PORT),
            ),
            times=times,
            max_sessions=env.number("PGQRS_MAX_SESSIONS", 64, least=1, most=10_000),
            log_level=env.choice("PGQRS_LOG_LEVEL", "INFO", _LOG_LEVELS),
            connection_mode=ConnectionMode(
                env.choice("PGQRS_CONNECTION_MODE", ConnectionMode.PERSISTENT, tuple(ConnectionMode))
            ),
            start_without_database=env.choice("PGQRS_START_WITHOUT_DATABASE", "false", ("true", "false")) == "true",
        )


class _Environment:
    """Reads single variables and says what is wrong with one."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        value = self._values.get(name, "")
        if not value:
            message = f"{name} is missing; the injector sets it, and without Kubernetes you must."
            raise errors.ConfigurationError(message)
        return value

    def token(self) -> str:
        value = self.text("PGQRS_SIDECAR_TOKEN")
        if value == TOKEN_PLACEHOLDER:
            message = "PGQRS_SIDECAR_TOKEN is the placeholder of a rendered manifest; put a random token in its place."
            raise errors.ConfigurationError(message)
        return value

    def dsn(self) -> str:
        value = self.text("PGQRS_DSN")
        try:
            return check_dsn(value)
        except errors.ConfigurationError as error:
            message = f"PGQRS_DSN: {error}"
            raise errors.ConfigurationError(message) from error

    def schema(self) -> str:
        try:
            return names.schema_name(self._values.get("PGQRS_SCHEMA") or "public")
        except errors.ValidationError as error:
            message = f"PGQRS_SCHEMA: {error}"
            raise errors.ConfigurationError(message) from error

    def queue(self) -> str:
        try:
            return names.queue_name(self.text("PGQRS_QUEUE"))
        except errors.ValidationError as error:
            message = f"PGQRS_QUEUE: {error}"
            raise errors.ConfigurationError(message) from error

    def hostname(self) -> str:
        value = self.text("PGQRS_HOSTNAME")
        try:
            names.worker_name(value, 1)
        except errors.ValidationError as error:
            message = f"PGQRS_HOSTNAME: {error}"
            raise errors.ConfigurationError(message) from error
        return value

    def seconds(self, name: str, default: float, *, least: float = 0.1) -> float:
        value = self._values.get(name)
        if not value:
            return default
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        # Written so that "nan", which compares with nothing, is refused too.
        if not least <= number <= _MAX_SECONDS:
            message = f"{name} is {value!r}; allowed is a number of seconds from {least:g} to {_MAX_SECONDS:g}."
            raise errors.ConfigurationError(message)
        return number

    def number(self, name: str, default: int, *, least: int, most: int) -> int:
        value = self._values.get(name)
        if not value:
            return default
        number = int(value) if value.isascii() and value.isdigit() else -1
        if not least <= number <= most:
            message = f"{name} is {value!r}; allowed is a whole number from {least} to {most}."
            raise errors.ConfigurationError(message)
        return number

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self._values.get(name) or default
        found = next((option for option in allowed if option.casefold() == value.casefold()), None)
        if found is None:
            message = f"{name} is {value!r}; allowed are {', '.join(allowed)}."
            raise errors.ConfigurationError(message)
        return found
