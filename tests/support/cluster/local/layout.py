"""Where one local cluster lives: its folders, its addresses, its names. Pure: it touches neither disk nor kernel."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from pathlib import Path

#: The range for benchmarks of network devices (RFC 2544): never routed, seldom used.
_RANGE = ipaddress.IPv4Network("198.18.0.0/15")
_BLOCK_PREFIX = 21
#: How many clusters a machine can hold at once.
SLOTS = 1 << (_BLOCK_PREFIX - _RANGE.prefixlen)
MOST_NODES = 2
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")


def check_name(name: str) -> str:
    """Give the name back if it can name a cluster.

    Raises:
        ClusterError: It has other letters, or is too long for a socket's path.
    """
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot name a cluster: at most 20 lower-case letters, digits and dashes, a letter first."
        raise ClusterError(message)
    return name


def block(slot: int) -> ipaddress.IPv4Network:
    """Give the 2,048 addresses of a slot."""
    return ipaddress.IPv4Network((int(_RANGE.network_address) + (slot << (32 - _BLOCK_PREFIX)), _BLOCK_PREFIX))


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """Folders and addresses of one node."""

    name: str
    root: Path
    address: str
    pods: str
    cgroup: str

    @property
    def containerd_socket(self) -> Path:
        """Where containerd answers; a file, so it is reachable from outside the box too."""
        return self.root / "containerd.sock"


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders and addresses of one cluster."""

    name: str
    root: Path
    slot: int
    nodes: int

    def _address(self, subnet: int, host: int) -> str:
        return str(block(self.slot).network_address + (subnet << 8) + host)

    @property
    def host_interface(self) -> str:
        """The host's end of the link into the box."""
        return f"pgqrs-test{self.slot}"

    @property
    def host_address(self) -> str:
        """The host's address on that link, with its prefix."""
        return self._address(0, 1) + "/30"

    @property
    def api_address(self) -> str:
        """The box's address on that link: the API server and the cluster's DNS."""
        return self._address(0, 2)

    @property
    def routed(self) -> tuple[str, ...]:
        """The ranges behind the link: Services and pods."""
        return (self.services, *(node.pods for node in self.node_list()))

    @property
    def api_url(self) -> str:
        """The API server, reachable from the host, the nodes and the pods."""
        return f"https://{self.api_address}:6443"

    @property
    def services(self) -> str:
        """The range of the Services' addresses."""
        return self._address(1, 0) + "/24"

    @property
    def first_service_address(self) -> str:
        """The address of the Service `kubernetes`."""
        return self._address(1, 1)

    @property
    def dns_address(self) -> str:
        """The address of the Service `kube-dns`."""
        return self._address(1, 10)

    @property
    def cgroup(self) -> str:
        """The control group that holds all pods, below each controller's root."""
        return f"pgqrs-test-{self.name}"

    @property
    def logs(self) -> Path:
        """One file per component."""
        return self.root / "logs"

    @property
    def credentials(self) -> Path:
        """Keys, certificates and kubeconfigs of the components."""
        return self.root / "credentials"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way in."""
        return self.root / "kubeconfig"

    @property
    def programs(self) -> Path:
        """Links to every program, for people's PATH."""
        return self.root / "bin"

    @property
    def network_rules(self) -> Path:
        """What the supervisor gives to the box's packet filter."""
        return self.root / "network.nft"

    @property
    def components_file(self) -> Path:
        """What the supervisor starts."""
        return self.root / "components.json"

    @property
    def state_file(self) -> Path:
        """What the supervisor has started."""
        return self.root / "supervisor.json"

    def node_list(self) -> tuple[NodeLayout, ...]:
        """Give the nodes, the first first."""
        return tuple(
            NodeLayout(
                name=f"node-{number}",
                root=self.root / f"node-{number}",
                address=self._address(0, 10 + number),
                pods=self._address(1 + number, 0) + "/24",
                cgroup=f"/{self.cgroup}/node-{number}",
            )
            for number in range(1, self.nodes + 1)
        )
