"""The operator's pods: which of them leads, and which have just started."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.cluster.shop import eventually
from tests.support.installation import RELEASE, SYSTEM

if TYPE_CHECKING:
    from tests.cluster.workloads import Body
    from tests.support.installation import Installation

_NAME = f"{RELEASE}-operator"
_LABEL = "app.kubernetes.io/component=operator"
#: As many as the chart runs.
_REPLICAS = 2


class Operators:
    """The two operators of an installation."""

    def __init__(self, installation: Installation) -> None:
        self._cluster = installation.cluster

    def renew(self) -> None:
        """Put pods in their place that never crashed: after each crash the kubelet waits longer."""
        self._kubectl("delete", "pods", "-l", _LABEL)
        self._kubectl("rollout", "status", f"deployment/{_NAME}", "--timeout=90s", timeout=100.0)

    def leader(self) -> str:
        """Name the pod that holds the Lease; empty while none does."""
        return str(self.lease().get("holderIdentity", "")).partition("_")[0]

    def taken(self) -> int:
        """Count how often the Lease was taken."""
        return int(self.lease().get("leaseTransitions", 0))

    def taken_since(self, before: int) -> bool:
        """Tell whether it was taken since it had been so often."""
        return self.taken() > before

    def handed_over(self, pod: str, *, within: float) -> tuple[Body, Body]:
        """Wait until another pod holds the Lease; give the last that it said of the one, and the first of the other."""
        last: Body = {}

        def another() -> Body | None:
            nonlocal last
            lease = self.lease()
            holder = str(lease.get("holderIdentity", "")).partition("_")[0]
            if holder == pod:
                last = lease
            return None if holder in {"", pod} else lease

        first = eventually(f"another one than {pod} leads", another, within=within)
        return last, first

    def settled(self) -> str:
        """Wait until one of the pods that are meant to be there leads, and give its name."""

        def settled() -> str | None:
            leader = self.leader()
            names = self.uids()
            return leader if len(names) == _REPLICAS and leader in names else None

        return eventually("one of two operators leads", settled, within=60.0)

    def uids(self) -> dict[str, str]:
        """Give the uids of the pods that are meant to be there, by their names."""
        return {name: body["metadata"]["uid"] for name, body in self._pods().items()}

    def restarts(self, pod: str) -> int:
        """Count how often a pod's process was started anew."""
        statuses = self._pods()[pod]["status"].get("containerStatuses", ())
        return sum(status["restartCount"] for status in statuses)

    def last_words(self, pod: str) -> str:
        """Give what a pod's process said before it was started anew."""
        return self._kubectl("logs", pod, "--previous")

    def lease(self) -> Body:
        """Give what the Lease says."""
        spec: Body = json.loads(self._kubectl("get", "lease", _NAME, "-o", "json")).get("spec") or {}
        return spec

    def _pods(self) -> dict[str, Body]:
        found = json.loads(self._kubectl("get", "pods", "-l", _LABEL, "-o", "json"))["items"]
        return {body["metadata"]["name"]: body for body in found if "deletionTimestamp" not in body["metadata"]}

    def _kubectl(self, *args: str, timeout: float = 60.0) -> str:
        return self._cluster.kubectl("-n", SYSTEM, *args, timeout=timeout)
