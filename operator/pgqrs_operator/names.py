"""The names that the parts and their users find each other by; `docs/design/interfaces.md` lists them."""

from __future__ import annotations

from pgqrs_injection.names import GROUP, INJECTED_ANNOTATION, PAUSED_ANNOTATION, QUEUE_LABEL, SIDECAR_CONTAINER

VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
QUEUES = "pgqrsqueues"
WORKERS = "pgqrsworkers"
FINALIZER = f"{GROUP}/finalizer"

__all__ = [
    "API_VERSION",
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
