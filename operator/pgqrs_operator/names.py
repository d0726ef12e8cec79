"""The names that the parts and their users find each other by; `docs/design/interfaces.md` lists them."""

from __future__ import annotations

GROUP = "pgqrs.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
QUEUES = "pgqrsqueues"
WORKERS = "pgqrsworkers"
FINALIZER = f"{GROUP}/finalizer"
#: On a pod: the name of its `PgqrsQueue`.
QUEUE_LABEL = f"{GROUP}/queue"
INJECTED_ANNOTATION = f"{GROUP}/injected"
#: On a pod: how long its drain may take.
DRAIN_ANNOTATION = f"{GROUP}/drain-seconds"
PAUSED_ANNOTATION = f"{GROUP}/paused-reconciliation"
SIDECAR_CONTAINER = "pgqrs-sidecar"
