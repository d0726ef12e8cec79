"""Everything that a local cluster could leave on this machine."""

from __future__ import annotations

from pathlib import Path

from tests.support.cluster.local import box
from tests.support.cluster.local.cluster import clusters_root


def traces(name: str, interface: str) -> list[str]:
    """Give what there is of a cluster on this machine; an empty list is a clean machine.

    Args:
        name: The cluster's.
        interface: Of its link, which the caller looked up while the cluster had one.
    """
    root = clusters_root() / name
    found = [f"process {pid}: {words[:3]}" for pid, words in _processes() if any(str(root) in word for word in words)]
    found += [f"process {pid} in a control group" for pid in _in_control_group(f"pgqrs-test-{name}")]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if str(root) in line]
    found += [f"control group {path}" for path in box.control_groups(f"pgqrs-test-{name}")]
    found += [f"interface {interface}"] if Path("/sys/class/net", interface).exists() else []
    found += [f"folder {root}"] if root.exists() else []
    return found


def _processes() -> list[tuple[int, list[str]]]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(entry.parent.name), entry.read_bytes().decode(errors="replace").split("\0")[:-1]))
        except OSError:
            continue  # It has ended since.
    return found


def _in_control_group(name: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if f"/{name}/" in entry.read_text():
                found.append(int(entry.parent.name))
        except OSError:
            continue  # It has ended since.
    return found
