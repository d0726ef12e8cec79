"""What an injection needs to know besides the pod."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgqrs_injection.sidecar import SidecarDefaults

PULL_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTarget:
    """What a pod must know of the queue that its label names."""

    #: The queue's name in the database.
    queue: str
    #: The Secret with the database's address, in the pod's namespace.
    secret: str
    #: The key in that Secret.
    key: str
    #: Where the tables are.
    schema: str = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What is the same for every pod."""

    #: The sidecar's image.
    image: str
    pull_policy: str = "IfNotPresent"
    #: The name of this cluster, where several share a database.
    cluster: str | None = None
    #: The longest that a pod's drain may take, in seconds, unless its annotation or its grace period gives more.
    drain_seconds: int = 25
    #: Whether a pod's grace period is raised where the drain would not fit into it.
    raise_grace_period: bool = True
    sidecar: SidecarDefaults = field(default_factory=SidecarDefaults)
