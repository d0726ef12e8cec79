"""One node: a containerd and a kubelet with folders, addresses and a control group of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.local.components import Component

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.cluster.local.layout import Layout, NodeLayout

PAUSE_IMAGE = "docker.io/library/pgqrs-pause:1"
_PLUGINS = Path("/usr/lib/cni")


def node_components(layout: Layout, node: NodeLayout, programs: Mapping[str, Path]) -> tuple[Component, ...]:
    """Give the two processes of a node."""
    containerd = f"containerd-{node.name}"
    return (
        Component(
            containerd,
            (str(programs["containerd"]), "--config", str(node.root / "containerd.toml"), "--log-level=warn"),
            ready=f"unix:{node.containerd_socket}",
        ),
        Component(
            f"kubelet-{node.name}",
            (
                str(programs["kubelet"]),
                f"--config={node.root / 'kubelet.json'}",
                f"--kubeconfig={layout.credentials / f'kubelet-{node.name}.kubeconfig'}",
                f"--root-dir={node.root / 'kubelet'}",
                f"--cert-dir={node.root / 'kubelet' / 'pki'}",
                f"--hostname-override={node.name}",
                f"--node-ip={node.address}",
            ),
            ready=f"http://{node.address}:10248/healthz",
            after=("kube-apiserver", containerd),
        ),
    )


def node_files(layout: Layout, node: NodeLayout) -> dict[Path, str]:
    """Give the configuration files that the node's processes read."""
    return {
        node.root / "containerd.toml": _containerd(node),
        node.root / "cni" / "10-pods.conflist": json.dumps(_network(node), indent=1),
        node.root / "kubelet.json": json.dumps(_kubelet(layout, node), indent=1),
        # Pods with dnsPolicy Default get this file: there is no resolver beyond the cluster's.
        node.root / "resolv.conf": f"nameserver {layout.dns_address}\n",
    }


def _containerd(node: NodeLayout) -> str:
    return f"""\
version = 3
root = "{node.root}/containerd"
state = "{node.root}/containerd-state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[grpc]
address = "{node.containerd_socket}"

[plugins.'io.containerd.cri.v1.runtime']
# Without CAP_SYS_RESOURCE, which root may lack in a sandbox, no lower score can be set and every pod fails.
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{_PLUGINS}"]
conf_dir = "{node.root}/cni"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE_IMAGE}"
"""


def _network(node: NodeLayout) -> dict[str, object]:
    """Give the pod network: a link per pod and plain routes.

    Not a bridge: traffic between two pods through a Service must pass the kernel's routing in both directions, or the
    answers are not translated back.
    """
    return {
        "cniVersion": "1.0.0",
        "name": f"pods-{node.name}",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(node.root / "cni-addresses"),
                    "ranges": [[{"subnet": node.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def _kubelet(layout: Layout, node: NodeLayout) -> dict[str, object]:
    keys = layout.credentials
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "healthzBindAddress": node.address,
        "containerRuntimeEndpoint": f"unix://{node.containerd_socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(keys / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(keys / f"kubelet-{node.name}.crt"),
        "tlsPrivateKeyFile": str(keys / f"kubelet-{node.name}.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [layout.dns_address],
        "clusterDomain": "cluster.local",
        "resolvConf": str(node.root / "resolv.conf"),
        "podLogsDir": str(node.root / "pod-logs"),
        "volumePluginDir": str(node.root / "volume-plugins"),
        # A full disk or little memory on a developer's machine is no reason to evict anything.
        "evictionHard": {
            "memory.available": "1Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 200,
        # In step with the controllers' node-monitor-grace-period.
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 16,
    }
