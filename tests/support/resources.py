"""The two kinds as their schemas have them, and texts that a hostile person would write into their fields. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgqrs_operator import declarations
from pgqrs_operator.names import API_VERSION
from pgqrs_operator.resources import crds
from pgqrs_operator.settings import Settings
from pgqrs_operator.store import read_queue, read_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = Settings()
DEFINITIONS = {
    definition["spec"]["names"]["kind"]: definition["spec"]["versions"][0] for definition in crds.definitions().values()
}
SCHEMAS = {kind: version["schema"]["openAPIV3Schema"] for kind, version in DEFINITIONS.items()}


def fields(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Give every field of a schema with where it stands."""
    for name, child in schema.get("properties", {}).items():
        yield (*path, name), child
        yield from fields(child, (*path, name))
        if "items" in child:
            yield from fields(child["items"], (*path, name))


HOSTILE = [
    "'; DROP TABLE pgqrs_queues; --",
    "../../kube-system/secrets/root",
    "..",
    "a/b",
    "%2e%2e%2f",
    "{schema}",
    "${PGQRS_DSN}",
    "{{ .Values.dsn }}",
    "$(reboot)",
    "<script>alert(1)</script>",
    "postgresql://user:secret@host/database",
    "a\nb",
    "a\r\nEvil: yes",
    "a\x00b",
    "\x1b[2J",
    "\u202egnp.exe",
    "a\u200bb",
    "\u2028",
    "\ud800",
    "",
    " ",
    " a",
    "a ",
    "-",
    "x" * 10_000,
    "9" * 400,
    "1E+999s",
]
#: Here a team chooses a name that the database may have already, so whatever can be printed is a name.
NAMES = {("PgqrsQueue", ("queueName",)), ("PgqrsWorker", ("hostname",))}
#: The fields of both kinds that take text, by kind and path below `spec`.
STRINGS = [
    (kind, path)
    for kind, schema in SCHEMAS.items()
    for path, field in fields(schema["properties"]["spec"])
    if field["type"] == "string"
]
#: Those of them that hold a duration. Each has a range, which the schema cannot say.
DURATIONS = [
    (kind, path)
    for kind, schema in SCHEMAS.items()
    for path, field in fields(schema["properties"]["spec"])
    if "(ms|s|m|h|d)" in field.get("pattern", "")
]


def with_value(kind: str, path: tuple[str, ...], value: str) -> dict[str, Any]:
    """Make a resource that is right, but for this field."""
    spec: dict[str, Any] = (
        {} if kind == "PgqrsQueue" else {"queueRef": {"name": "emails"}, "hostname": "legacy", "port": 7}
    )
    inner = spec
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = value
    metadata = {"name": "emails", "namespace": "shop", "uid": "u1"}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def judged(body: dict[str, Any]) -> tuple[str, str | None]:
    """Give why the operator refuses a resource, or nothing, and the name in the database that it leads to."""
    if body["kind"] == "PgqrsQueue":
        queue = declarations.queue(read_queue(body), SETTINGS)
        assert (queue.policy is None) == bool(queue.problem)
        return queue.problem, queue.name
    (worker,) = declarations.desired([], [read_worker(body)], [], SETTINGS).workers
    return worker.problem, worker.row_name
