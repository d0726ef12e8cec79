"""The names that the parts and their users find each other by; `docs/design/interfaces.md` lists them."""

from __future__ import annotations

from pgqrs_injection.names import GROUP, INJECTED_ANNOTATION, PAUSED_ANNOTATION, QUEUE_LABEL, SIDECAR_CONTAINER

VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
QUEUES = "pgqrsqueues"
WORKERS = "pgqrsworkers"
FINALIZER = f"{GROUP}/finalizer"
#: What a ReplicaSet goes by when it has to choose a pod to delete; Kubernetes' own name.
DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"

__all__ = [
    "API_VERSION",
    "DELETION_COST_ANNOTATION",
    "FINALIZER",
    "GROUP",
    "INJECTED_ANNOTATION",
    "PAUSED_ANNOTATION",
    "QUEUES",
    "QUEUE_LABEL",
    "SIDECAR_CONTAINER",
    "VERSION",
    "WORKERS",
]
