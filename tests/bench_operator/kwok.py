"""Nodes and pods without processes behind them, whose life kwok simulates."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.cluster.programs import KWOK, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cluster.provider import Cluster

#: Pods that are to run there have this node selector and tolerate the taint of the same name.
LABEL = "pgqrs.io/simulated"
_END_SECONDS = 10.0
#: What kwok does with nodes and pods, in the files of its module.
_STAGES = (
    "node/fast/node-initialize", "node/heartbeat/node-heartbeat", "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready", "pod/fast/pod-delete",
)  # fmt: skip
#: A pod takes a slot of its node.
_PODS_PER_NODE = 200


def _node(number: int) -> dict[str, object]:
    metadata = {
        "name": f"simulated-{number}",
        "labels": {LABEL: "true"},
        "annotations": {"kwok.x-k8s.io/node": "fake"},
    }
    room = {"cpu": "64", "memory": "256Gi", "pods": str(_PODS_PER_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "spec": {"taints": [{"key": LABEL, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": room, "allocatable": room},
    }


def _stages() -> list[str]:
    """Give the options that name what kwok does; without any it does nothing."""
    where = ["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"]
    found = subprocess.run(where, cwd=KWOK.root, check=True, capture_output=True, text=True).stdout.strip()
    return [f"--config={found}/kustomize/stage/{stage}.yaml" for stage in _STAGES]


@contextmanager
def simulated_nodes(cluster: Cluster, pods: int, log: Path) -> Iterator[None]:
    """Have nodes for so many pods until the block ends.

    Raises:
        ClusterError: kwok cannot be built.
    """
    program = build(KWOK) / "kwok"
    nodes = [_node(number) for number in range(-(-pods // _PODS_PER_NODE))]
    words = (
        f"--kubeconfig={cluster.kubeconfig}",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--node-lease-duration-seconds=40",
        "--node-port=0",
        *_stages(),
    )
    with log.open("wb") as output, subprocess.Popen([program, *words], stdout=output, stderr=output) as process:
        try:
            cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes}))
            names = [f"node/simulated-{number}" for number in range(len(nodes))]
            cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *names, timeout=70.0)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
