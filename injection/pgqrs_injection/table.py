"""The annotations that a pod may have under `pgqrs.io/`: the one table that validates them and documents them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgqrs_injection import values
from pgqrs_injection.errors import RefusedError
from pgqrs_injection.names import GROUP, INJECTED_ANNOTATION, PAUSED_ANNOTATION, QUEUE_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")

CONNECTION_MODES = ("persistent", "shortLived")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

#: In seconds, a day: what the sidecar takes. A grace period may be longer, for what an app does after the drain.
LONGEST_DRAIN = 86400

#: The kinds of values that the chart, annotations and the sidecar's own environment may have.
DRAIN = values.whole(1, LONGEST_DRAIN, unit="seconds")
HEARTBEAT = values.whole(1, 30, unit="seconds")
CONNECTION_MODE = values.choice(*CONNECTION_MODES)
LOG_LEVEL = values.choice(*LOG_LEVELS)
SWITCH = values.boolean()
#: Below are the ports that a process without rights may be kept from.
PORT = values.whole(1024, 65535)
TOKEN = values.token()
HTTP_PORT = 9190
SESSION_PORT = 9191


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation(Generic[T]):
    """One annotation."""

    #: Without the prefix.
    name: str
    kind: values.Kind[T]
    #: What holds without it, in words.
    default: str
    #: What it is for.
    purpose: str
    example: str

    @property
    def key(self) -> str:
        """The name as it stands in a pod."""
        return f"{GROUP}/{self.name}"

    def read(self, annotations: Mapping[str, str]) -> T | None:
        """Give the value that a pod's annotations say, None without one.

        Raises:
            RefusedError: the value is not allowed.
        """
        if self.key not in annotations:
            return None
        value = annotations[self.key]
        try:
            return self.kind.read(value)
        except ValueError as error:
            raise RefusedError(self.kind.complaint(f"The annotation {self.key}", value)) from error


DRAIN_SECONDS = Annotation(
    name="drain-seconds",
    kind=DRAIN,
    default="`terminationGracePeriodSeconds` less 5 s, but at least the chart's `injector.drainSeconds` (25)",
    purpose=(
        "The longest that the pod's drain may take: when it ends, its messages that are being handled have so long."
        " It ends earlier when all are done. The grace period is raised to 5 s more where it is shorter. Where the "
        "chart's `injector.raiseGracePeriod` is off, the drain is cut to what the grace period leaves. A warning tells "
        "of either."
    ),
    example="120",
)
HEARTBEAT_SECONDS = Annotation(
    name="heartbeat-seconds",
    kind=HEARTBEAT,
    default="the chart's `injector.sidecar.heartbeatSeconds` (5)",
    purpose=(
        "The time between two heartbeats of the pod's workers. More is cheaper for the database. It must stay well "
        "below the queue's `heartbeatTimeout`, after which a silent worker counts as dead."
    ),
    example="15",
)
CONNECTION = Annotation(
    name="connection-mode",
    kind=CONNECTION_MODE,
    default="the chart's `injector.sidecar.connectionMode` (persistent)",
    purpose=(
        "Whether the sidecar keeps its one connection to the database between heartbeats (`persistent`) or opens "
        "one for each (`shortLived`), for databases where connections are scarcer than log-ins."
    ),
    example="shortLived",
)
START_WITHOUT_DATABASE = Annotation(
    name="start-without-database",
    kind=SWITCH,
    default="the chart's `injector.sidecar.startWithoutDatabase` (false)",
    purpose=(
        "Whether the app starts although the database does not answer: after 10 s the sidecar lets it, and "
        "registers the pod as soon as the database does. The library's workers in the app wait as well. Otherwise the "
        "app starts when the database answers."
    ),
    example="true",
)
LOG = Annotation(
    name="log-level",
    kind=LOG_LEVEL,
    default="the chart's `injector.sidecar.logLevel` (INFO)",
    purpose="What the sidecar logs.",
    example="DEBUG",
)
SIDECAR_HTTP_PORT = Annotation(
    name="http-port",
    kind=PORT,
    default=str(HTTP_PORT),
    purpose=(
        "The port of the sidecar's probes, drain and metrics, at the pod's address. For pods whose own containers "
        "need the usual one."
    ),
    example="9290",
)
SIDECAR_SESSION_PORT = Annotation(
    name="session-port",
    kind=PORT,
    default=str(SESSION_PORT),
    purpose=(
        "The port on loopback where the library finds the sidecar. For pods whose own containers need the usual one."
    ),
    example="9291",
)
CONTAINERS = Annotation(
    name="containers",
    kind=values.container_names(),
    default="all of the pod's containers",
    purpose=(
        "The containers that get the environment and the preStop hook. For pods with containers that have nothing "
        "to do with the queue and should neither see the database's address nor wait for the drain."
    ),
    example="app, helper",
)
INJECT_DSN = Annotation(
    name="inject-dsn",
    kind=SWITCH,
    default="true",
    purpose=(
        "Whether the containers get `PGQRS_DSN` from the queue's Secret. A variable of `env` wins over one of the "
        "same name from `envFrom`, so containers that get their `PGQRS_DSN` by `envFrom` need `false`. One that "
        "stands in a container's own `env` always stays. The sidecar gets the Secret's in any case."
    ),
    example="false",
)
CPU_REQUEST = Annotation(
    name="sidecar-cpu-request",
    kind=values.quantity("10m", least="1m"),
    default="the chart's `injector.sidecar.resources.requests.cpu` (5m)",
    purpose="What the sidecar asks for of the node's processors.",
    example="10m",
)
MEMORY_REQUEST = Annotation(
    name="sidecar-memory-request",
    kind=values.quantity("64Mi", least="1Mi"),
    default="the chart's `injector.sidecar.resources.requests.memory` (48Mi)",
    purpose="What the sidecar asks for of the node's memory.",
    example="64Mi",
)
CPU_LIMIT = Annotation(
    name="sidecar-cpu-limit",
    kind=values.quantity("100m", least="1m", or_none=True),
    default="the chart's `injector.sidecar.resources.limits.cpu` (no limit)",
    purpose="What the sidecar gets of the node's processors at most. A tight one delays heartbeats.",
    example="500m",
)
MEMORY_LIMIT = Annotation(
    name="sidecar-memory-limit",
    kind=values.quantity("128Mi", least="1Mi", or_none=True),
    default="the chart's `injector.sidecar.resources.limits.memory` (96Mi)",
    purpose=(
        "What the sidecar gets of the node's memory at most; it is restarted when it needs more. More processes in "
        "the pod need more."
    ),
    example="128Mi",
)

#: Those that people write, in the order of the documentation.
TABLE: tuple[Annotation[Any], ...] = (
    DRAIN_SECONDS,
    CONTAINERS,
    INJECT_DSN,
    HEARTBEAT_SECONDS,
    CONNECTION,
    START_WITHOUT_DATABASE,
    LOG,
    SIDECAR_HTTP_PORT,
    SIDECAR_SESSION_PORT,
    CPU_REQUEST,
    MEMORY_REQUEST,
    CPU_LIMIT,
    MEMORY_LIMIT,
)
#: Those that a pod may have besides; the first is ours to write, the second means nothing on a pod.
_OTHERS = (INJECTED_ANNOTATION, PAUSED_ANNOTATION)
_KEYS = tuple(annotation.key for annotation in TABLE)
#: The API server asks before it checks the names of annotations.
_LONGEST_KEY = 80


def refuse_unknown(annotations: Iterable[str]) -> None:
    """Let no misspelt annotation pass for nothing.

    Raises:
        RefusedError: there is one under `pgqrs.io/` that is not in the table; the message names near ones.
    """
    unknown = [key for key in annotations if key.startswith(f"{GROUP}/") and key not in _KEYS and key not in _OTHERS]
    if not unknown:
        return
    key = min(unknown)
    if key == QUEUE_LABEL:
        message = f"{key} is a label, no annotation; remove the annotation."
        raise RefusedError(message)
    # The prefix is common to all and would make everything look near.
    near = difflib.get_close_matches(
        key.partition("/")[2][:_LONGEST_KEY].lower(), [annotation.name for annotation in TABLE], n=3, cutoff=0.6
    )
    if near:
        hint = f"Did you mean {' or '.join(f'{GROUP}/{name}' for name in near)}?"
    else:
        hint = f"There are {', '.join(_KEYS)}."
    message = f"There is no annotation {key[:_LONGEST_KEY]}. {hint}"
    raise RefusedError(message)
