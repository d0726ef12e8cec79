"""Pods as the tests of the injection write them, and what they look at afterwards."""

from __future__ import annotations

from typing import Any

from pgqrs_injection.settings import Injection, QueueTarget

QUEUE = QueueTarget(queue="emails", secret="pgqrs", key="dsn")
SETTINGS = Injection(image="example.test/sidecar:1")
#: Where a Kubernetes token would be mounted.
TOKEN_PLACE = "/var/run/secrets/kubernetes.io/serviceaccount"


def pod(*containers: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A labelled pod, of one container if none is given."""
    metadata: dict[str, Any] = {"generateName": "web-", "labels": {"pgqrs.io/queue": "emails"}}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {
        "metadata": metadata,
        "spec": {"containers": list(containers) or [{"name": "app", "image": "app:1"}], **spec},
    }


def environment(container: dict[str, Any]) -> dict[str, Any]:
    """The variables of a container: texts, or where they come from."""
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def sidecar_of(injected: dict[str, Any]) -> dict[str, Any]:
    """The one sidecar of a pod after its injection."""
    [found] = [c for c in injected["spec"]["initContainers"] if c["name"] == "pgqrs-sidecar"]
    assert isinstance(found, dict)
    return found
