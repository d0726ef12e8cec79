"""Manifests of the pods that tests run: containers of `apps/worker.py`, and some without pgqrs in them. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.installation import EXAMPLE_IMAGE

_APP = Path(__file__).with_name("apps") / "worker.py"
_CONFIG = "apps"
#: An app without pgqrs: it waits, and obeys SIGTERM.
SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait")
#: Holds unless the container's first process said that it is ill: see `apps/worker.py`.
_NOT_ILL = """! grep -qsx "$(cut -d ' ' -f 22 /proc/1/stat)" /scratch/ill"""

Body = dict[str, Any]


def config() -> Body:
    """Give the ConfigMap with the apps' code."""
    data = {_APP.name: _APP.read_text()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _CONFIG}, "data": data}


def container(
    mode: str = "run",
    *,
    name: str = "app",
    command: tuple[str, ...] = (),
    memory: str = "128Mi",
    probed: bool = False,
    environment: dict[str, str] | None = None,
) -> Body:
    """Give a container.

    Args:
        mode: how the app gets along with SIGTERM, see `apps/worker.py`.
        name: its name in the pod.
        command: another program instead.
        memory: beyond it the kernel kills.
        probed: whether the kubelet restarts it when it says that it is ill.
        environment: for the app.
    """
    made: Body = {
        "name": name,
        "image": EXAMPLE_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command) or ["python", f"/apps/{_APP.name}", mode],
        "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
        "resources": {"requests": {"cpu": "5m", "memory": "32Mi"}, "limits": {"memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "apps", "mountPath": "/apps"}, {"name": "scratch", "mountPath": "/scratch"}],
    }
    if probed:
        probe = {"exec": {"command": ["sh", "-c", _NOT_ILL]}, "periodSeconds": 1, "timeoutSeconds": 10}
        made["livenessProbe"] = {**probe, "failureThreshold": 1}
    return made


def pod(
    name: str,
    queue: str,
    *containers: Body,
    grace: int | None = None,
    restart: str = "Always",
    annotations: dict[str, str] | None = None,
) -> Body:
    """Give a pod of a queue.

    Args:
        name: of the pod.
        queue: of the `PgqrsQueue`.
        containers: one that runs `Consumer.run` if none is given.
        grace: its `terminationGracePeriodSeconds`.
        restart: its `restartPolicy`.
        annotations: of the pod.
    """
    spec: Body = {
        "restartPolicy": restart,
        "containers": list(containers) or [container()],
        "volumes": [{"name": "apps", "configMap": {"name": _CONFIG}}, {"name": "scratch", "emptyDir": {}}],
    }
    if grace is not None:
        spec["terminationGracePeriodSeconds"] = grace
    metadata = {"name": name, "labels": {"app": name, "pgqrs.io/queue": queue}, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def controlled(kind: str, made: Body, *, replicas: int = 1) -> Body:
    """Give a Deployment or StatefulSet of a pod's name with the pod as its template."""
    name = made["metadata"]["name"]
    template = {"metadata": {key: made["metadata"][key] for key in ("labels", "annotations")}, "spec": made["spec"]}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def job(made: Body, *, parallelism: int) -> Body:
    """Give a Job of a pod's name with the pod as its template."""
    template = {"metadata": {"labels": made["metadata"]["labels"]}, "spec": {**made["spec"], "restartPolicy": "Never"}}
    spec = {"parallelism": parallelism, "completions": parallelism, "backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": made["metadata"]["name"]}, "spec": spec}
