"""Which block of addresses a cluster gets: one that no other cluster and no route of this machine uses."""

from __future__ import annotations

import ipaddress
import json
import zlib
from typing import TYPE_CHECKING

from tests.support.cluster.commands import run
from tests.support.cluster.errors import ClusterError
from tests.support.cluster.local.layout import SLOTS, block

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def choose(name: str, taken: Iterable[int], routed: Iterable[ipaddress.IPv4Network]) -> int:
    """Give the cluster's slot: always the same for a name, as long as nobody else has it.

    Raises:
        ClusterError: All are taken.
    """
    occupied = set(taken)
    networks = list(routed)
    first = zlib.crc32(name.encode()) % SLOTS
    for step in range(SLOTS):
        slot = (first + step) % SLOTS
        if slot not in occupied and not any(block(slot).overlaps(network) for network in networks):
            return slot
    message = "Every block of addresses for test clusters is taken; remove a cluster."
    raise ClusterError(message)


def taken(clusters: Path) -> list[int]:
    """Give the slots of all clusters below the folder, half-made ones included."""
    return [int(json.loads(path.read_text())["slot"]) for path in clusters.glob("*/box.json")]


def routed() -> list[ipaddress.IPv4Network]:
    """Give the networks that this machine has routes to, but for the default route."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    destinations = [route["dst"] for route in routes if route["dst"] != "default"]
    return [ipaddress.IPv4Network(destination, strict=False) for destination in destinations]
