"""The names that an injected pod carries; `docs/design/interfaces.md` lists them."""

from __future__ import annotations

GROUP = "pgqrs.io"
#: On a pod: the name of its `PgqrsQueue`.
QUEUE_LABEL = f"{GROUP}/queue"
#: On a pod: it has been injected.
INJECTED_ANNOTATION = f"{GROUP}/injected"
#: On a resource of ours: leave it alone. Pods have it by accident only.
PAUSED_ANNOTATION = f"{GROUP}/paused-reconciliation"
SIDECAR_CONTAINER = "pgqrs-sidecar"
#: The volume that lies over the place of the Kubernetes token.
NO_TOKEN_VOLUME = "pgqrs-no-token"  # noqa: S105 - the name of a volume, no token
#: Stands for the token in a manifest that was rendered without one; a sidecar does not start with it.
TOKEN_PLACEHOLDER = "REPLACE-ME-BY-A-RANDOM-TOKEN"  # noqa: S105 - for who reads the manifest, no token
