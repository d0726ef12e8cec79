"""What a run ran on; nothing that names the machine or a place on it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts that a reader needs to compare."""

    cpu: str
    cores: int
    memory_gib: int
    kernel: str
    python: str
    postgresql: str
    #: How many processes wanted to run in the minute before; much above 0 spoils the numbers.
    load_before: float

    @classmethod
    def read(cls, postgresql: str) -> Machine:
        """Read them from this machine; the server's version is given."""
        models = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            cpu=models[0] if models else platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(pages / 2**30),
            kernel=platform.release(),
            python=platform.python_version(),
            postgresql=postgresql,
            load_before=round(os.getloadavg()[0], 1),
        )
