"""Generates the CustomResourceDefinitions from the models: what the API server checks is what the operator reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from pgqrs_operator.names import GROUP, QUEUES, VERSION, WORKERS
from pgqrs_operator.resources.queue import QueueSpec, QueueStatus
from pgqrs_operator.resources.worker import WorkerSpec, WorkerStatus

if TYPE_CHECKING:
    from pgqrs_operator.resources.common import Model

_KEPT = (
    "type",
    "description",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "maxItems",
    "default",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON schema as pydantic writes it into a structural schema: no references, no unions with null."""
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    if "anyOf" in node:
        (branch,) = [option for option in node["anyOf"] if option.get("type") != "null"]
        own = {key: value for key, value in node.items() if key != "anyOf"}
        return _structural(branch | own, definitions)
    found = {key: node[key] for key in _KEPT if node.get(key) is not None}
    if "const" in node:
        found["enum"] = [node["const"]]
    if "items" in node:
        found["items"] = _structural(node["items"], definitions)
    if "properties" in node:
        found["properties"] = {name: _structural(child, definitions) for name, child in node["properties"].items()}
        if node.get("required"):
            found["required"] = sorted(node["required"])
    if found.get("type") == "object" and isinstance(found.get("default"), dict):
        # The server fills in the defaults of the parts by itself once there is an object to fill.
        found["default"] = {}
    return found


def _schema(model: type[Model]) -> dict[str, Any]:
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(document, document.get("$defs", {}))


def _rule(rule: str, message: str, **more: str) -> dict[str, str]:
    return {"rule": rule, "message": message, **more}


def _condition(name: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{name}")].{field}'


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False, description: str = "") -> dict[str, Any]:
    about = {"description": description} if description else {}
    return {"name": name, "type": kind, "jsonPath": path} | about | ({"priority": 1} if wide else {})


def _definition(
    *,
    kind: str,
    plural: str,
    short: str,
    description: str,
    spec: dict[str, Any],
    status: dict[str, Any],
    rules: list[dict[str, str]],
    columns: list[dict[str, Any]],
) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "description": description,
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    if rules:
        schema["x-kubernetes-validations"] = rules
    if "default" not in spec:
        schema["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["pgqrs"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _queue() -> dict[str, Any]:
    def effective(of: str) -> str:
        return f"(has({of}.spec.queueName) ? {of}.spec.queueName : {of}.metadata.name)"

    return _definition(
        kind="PgqrsQueue",
        plural=QUEUES,
        short="pq",
        description="A queue of pgqrs: a row in the database that its Secret names, kept as declared here.",
        # Everything has a default, so an absent spec is a whole one.
        spec=_schema(QueueSpec) | {"default": {}},
        status=_schema(QueueStatus),
        rules=[
            _rule(
                f"{effective('self')} == {effective('oldSelf')}",
                "spec.queueName cannot be changed; delete the resource and make another one",
                fieldPath=".spec.queueName",
            )
        ],
        columns=[
            _column("Queue", ".status.queueName"),
            _column("Ready", _condition("Ready", "status")),
            _column(
                "Depth",
                ".status.messages.ready",
                "integer",
                description="Messages that wait for a worker now; 10000 stands for so many or more.",
            ),
            _column(
                "Oldest",
                ".status.oldestReadySince",
                "date",
                description="For how long the oldest of them has been waiting.",
            ),
            _column("Leased", ".status.messages.leased", "integer", description="Messages that are with a worker now."),
            _column("Dead", ".status.messages.dead", "integer", description="Dead letters."),
            _column(
                "Workers",
                ".status.workers.ready",
                "integer",
                description="Workers that work or wait for messages.",
            ),
            _column("Reason", _condition("Ready", "reason")),
            _column("Message", _condition("Ready", "message")),
            _column("Age", ".metadata.creationTimestamp", "date"),
        ],
    )


def _worker() -> dict[str, Any]:
    spec = _schema(WorkerSpec)
    spec["x-kubernetes-validations"] = [
        _rule("has(self.hostname) == has(self.port)", "hostname and port belong together: give both or neither"),
        _rule("self.queueRef.name == oldSelf.queueRef.name", "queueRef cannot be changed", fieldPath=".queueRef"),
        _rule(
            "has(self.hostname) == has(oldSelf.hostname) && has(self.port) == has(oldSelf.port)"
            " && (!has(self.hostname) || self.hostname == oldSelf.hostname)"
            " && (!has(self.port) || self.port == oldSelf.port)",
            "hostname and port cannot be changed",
        ),
    ]
    return _definition(
        kind="PgqrsWorker",
        plural=WORKERS,
        short="pw",
        description="A worker of pgqrs: all workers of the pod that owns this, or the one named HOSTNAME:PORT.",
        spec=spec,
        status=_schema(WorkerStatus),
        rules=[],
        columns=[
            _column("Queue", ".spec.queueRef.name"),
            _column("State", ".status.state"),
            _column("Heartbeat", ".status.heartbeat"),
            _column("Leased", ".status.leasedMessages", "integer"),
            _column("Pod", ".status.pod"),
            _column("Ready", _condition("Ready", "status")),
            _column("Reason", _condition("Ready", "reason"), wide=True),
            _column("Message", _condition("Ready", "message")),
            _column("Age", ".metadata.creationTimestamp", "date"),
        ],
    )


def definitions() -> dict[str, dict[str, Any]]:
    """Give both CRDs by the name of their file in `deploy/crds`."""
    return {"pgqrs.io_pgqrsqueues.yaml": _queue(), "pgqrs.io_pgqrsworkers.yaml": _worker()}


def render(definition: dict[str, Any]) -> str:
    """Write one CRD as YAML."""
    header = "# Generated by `pgqrs-operator crds`; do not edit.\n"
    return header + yaml.safe_dump(definition, sort_keys=False, width=120, allow_unicode=True)
