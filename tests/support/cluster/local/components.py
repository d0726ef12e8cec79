"""What a component of the cluster is, and which ones make a control plane. Pure: it starts nothing."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tests.support.cluster.local.layout import Layout


@dataclass(frozen=True, slots=True)
class Component:
    """One process that the supervisor keeps running."""

    name: str
    argv: tuple[str, ...]
    #: Answers once the component is of use: `http:`, `https:` or `unix:`; None counts as ready once started.
    ready: str | None = None
    #: Components that must be ready before.
    after: tuple[str, ...] = ()


def dump(components: Iterable[Component]) -> str:
    """Write components for the supervisor."""
    return json.dumps([asdict(component) for component in components], indent=1)


def load(text: str) -> tuple[Component, ...]:
    """Read what `dump` wrote."""
    return tuple(
        Component(item["name"], tuple(item["argv"]), item["ready"], tuple(item["after"])) for item in json.loads(text)
    )


def _flags(**values: str) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in values.items())


def control_plane(layout: Layout, programs: Mapping[str, Path]) -> tuple[Component, ...]:
    """Give etcd, the API server, the controllers, the scheduler, the proxy and the cluster's DNS."""
    keys = layout.credentials
    etcd = "http://127.0.0.1:2379"

    def kubeconfig(name: str) -> str:
        return str(keys / f"{name}.kubeconfig")

    return (
        Component(
            "etcd",
            (
                str(programs["etcd"]),
                # The data is thrown away with the cluster: syncing it to disk only costs time.
                "--unsafe-no-fsync",
                "--log-level=warn",
                *_flags(
                    data_dir=str(layout.root / "etcd"),
                    listen_client_urls=etcd,
                    advertise_client_urls=etcd,
                    listen_peer_urls="http://127.0.0.1:2380",
                ),
            ),
            ready=f"{etcd}/health",
        ),
        Component(
            "kube-apiserver",
            (
                str(programs["kube-apiserver"]),
                *_flags(
                    etcd_servers=etcd,
                    advertise_address=layout.api_address,
                    bind_address="0.0.0.0",
                    secure_port="6443",
                    service_cluster_ip_range=layout.services,
                    tls_cert_file=str(keys / "kube-apiserver.crt"),
                    tls_private_key_file=str(keys / "kube-apiserver.key"),
                    client_ca_file=str(keys / "ca.crt"),
                    kubelet_certificate_authority=str(keys / "ca.crt"),
                    kubelet_client_certificate=str(keys / "kubelet-client.crt"),
                    kubelet_client_key=str(keys / "kubelet-client.key"),
                    # By name would mean a look-up that nobody answers.
                    kubelet_preferred_address_types="InternalIP",
                    service_account_issuer="https://kubernetes.default.svc.cluster.local",
                    service_account_signing_key_file=str(keys / "service-accounts.key"),
                    service_account_key_file=str(keys / "service-accounts.pub"),
                    authorization_mode="Node,RBAC",
                    enable_admission_plugins="NodeRestriction",
                    allow_privileged="true",
                ),
            ),
            ready=f"{layout.api_url}/readyz",
            after=("etcd",),
        ),
        Component(
            "kube-controller-manager",
            (
                str(programs["kube-controller-manager"]),
                *_flags(
                    kubeconfig=kubeconfig("kube-controller-manager"),
                    service_account_private_key_file=str(keys / "service-accounts.key"),
                    root_ca_file=str(keys / "ca.crt"),
                    use_service_account_credentials="true",
                    leader_elect="false",
                    bind_address="127.0.0.1",
                    # Tests of silent nodes wait for this.
                    node_monitor_grace_period="16s",
                ),
                "--controllers=*,-node-ipam-controller",
            ),
            after=("kube-apiserver",),
        ),
        Component(
            "kube-scheduler",
            (
                str(programs["kube-scheduler"]),
                *_flags(kubeconfig=kubeconfig("kube-scheduler"), leader_elect="false", bind_address="127.0.0.1"),
            ),
            after=("kube-apiserver",),
        ),
        Component(
            "kube-proxy",
            (str(programs["kube-proxy"]), f"--config={layout.root / 'kube-proxy.json'}"),
            after=("kube-apiserver",),
        ),
        Component(
            "coredns",
            (str(programs["coredns"]), "-conf", str(layout.root / "Corefile")),
            after=("kube-apiserver",),
        ),
    )


def control_plane_files(layout: Layout) -> dict[Path, str]:
    """Give the configuration files that the control plane's components read."""
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(layout.credentials / "kube-proxy.kubeconfig")},
        "hostnameOverride": "node-1",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # Zero leaves the machine's own limit alone.
        "conntrack": {"maxPerCore": 0},
        "oomScoreAdj": 0,
    }
    corefile = f"""\
.:53 {{
    bind {layout.api_address}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {layout.credentials / "coredns.kubeconfig"}
        ttl 5
    }}
    cache 5
}}
"""
    return {
        layout.network_rules: _network_rules(layout),
        layout.root / "kube-proxy.json": json.dumps(proxy, indent=1),
        layout.root / "Corefile": corefile,
    }


def _network_rules(layout: Layout) -> str:
    """Give the packet filter's rule that lets a pod reach itself by its Service.

    The proxy does that for its own node's pods only, and it is one for all nodes here, as they share a network.
    """
    pods = [str(pod) for node in layout.node_list() for pod in ipaddress.IPv4Network(node.pods).hosts()]
    elements = ", ".join(f"{pod} . {pod}" for pod in pods)
    return f"""\
table ip pgqrs-test {{
    set itself {{
        type ipv4_addr . ipv4_addr
        elements = {{ {elements} }}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat + 10
        ct status dnat ip saddr . ip daddr @itself masquerade
    }}
}}
"""
