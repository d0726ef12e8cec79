"""The namespaces that a local cluster runs in: made, found again, entered and removed without a trace.

The box is found by the command line of its first process, not by a file with a number in it: whatever crashed when, a
box that lives is found, and no number that was given to another process is ever killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.commands import run, tail, wait_for
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SUPERVISOR = "tests.support.cluster.local.supervisor"
_CHECKOUT = Path(__file__).resolve().parents[4]
_END_TIMEOUT = 20.0


def _processes(root: Path) -> Iterator[tuple[int, list[str]]]:
    """Give every process whose arguments end as a supervisor's for this folder, with its arguments."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            continue
        if words[-2:] == [_SUPERVISOR, str(root)]:
            yield int(entry.name), words


def find(root: Path) -> int | None:
    """Give the box's first process by its number outside, or None where there is no box."""
    for pid, words in _processes(root):
        if Path(words[0]).name != "unshare" and _is_first(pid):
            return pid
    return None


def _is_first(pid: int) -> bool:
    """Tell whether the process is number 1 of a process namespace below ours."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    return len(numbers) > 1 and numbers[-1] == "1"


def start(root: Path, log: Path) -> int:
    """Make the namespaces with a supervisor in them and give its number outside.

    It belongs to nobody: it lives on when the process that called this ends.

    Raises:
        ClusterError: It ended at once.
    """
    scratch = root / "tmp"
    scratch.mkdir()
    # Few variables: what a developer's shell holds must not change what a cluster does.
    environment = {
        "PATH": f"{root / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(_CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(scratch),
        "HOME": str(scratch),
    }
    argv = [
        *("setsid", "--fork"),
        *("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"),
        *(sys.executable, "-m", _SUPERVISOR, str(root)),
    ]
    with log.open("ab") as output:
        subprocess.run(
            argv, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True
        )
    try:
        wait_for(lambda: find(root) is not None, what="the box's first process", timeout=5.0, interval=0.02)
    except ClusterError as error:
        message = f"The box ended at once:\n{tail(log.read_text())}"
        raise ClusterError(message) from error
    pid = find(root)
    if pid is None:
        message = f"The box ended at once:\n{tail(log.read_text())}"
        raise ClusterError(message)
    return pid


def inside(pid: int, argv: Sequence[str | Path], *, mounts: bool = False) -> list[str]:
    """Give the command line that runs a command in the box's network, and with `mounts` wholly inside.

    With the network alone, the command sees this machine's files and processes.
    """
    words = [str(word) for word in argv]
    namespaces = ["-n", "-m", "-p", "-u", "-i"] if mounts else ["-n"]
    return ["nsenter", "-t", str(pid), *namespaces, "--", *words]


def kill(root: Path) -> None:
    """End every process of the box and wait until the kernel has taken the namespaces down.

    Raises:
        ClusterError: Something survived.
    """
    doomed = [pid for pid, _ in _processes(root)]
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    # A process that is ending has no arguments any more; the namespace's end is the first process's.
    wait_for(lambda: not any(_alive(pid) for pid in doomed), what="the box to end", timeout=_END_TIMEOUT, interval=0.02)


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def control_groups(name: str) -> list[Path]:
    """Give the control group's folder below each mounted hierarchy, where it exists."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    roots = [Path(line.split()[1]) for line in mounts if line.split()[2] in {"cgroup", "cgroup2"}]
    return [root / name for root in roots if (root / name).is_dir()]


def make_control_groups(paths: Sequence[str]) -> None:
    """Make the groups that the kubelets put their pods under, in every hierarchy."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mountpoint, kind, *_ = line.split()
        if kind not in {"cgroup", "cgroup2"}:
            continue
        for path in paths:
            group = Path(mountpoint)
            for part in Path(path.lstrip("/")).parts:
                if kind == "cgroup2":
                    _delegate(group)
                group /= part
                group.mkdir(exist_ok=True)
            if kind == "cgroup2":
                _delegate(group)


def _delegate(group: Path) -> None:
    """Let the children of a version 2 group have all of its controllers."""
    controllers = (group / "cgroup.controllers").read_text().split()
    if controllers:
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def remove_control_groups(name: str) -> None:
    """Remove the group in every hierarchy, the deepest first.

    Raises:
        ClusterError: One is still in use.
    """
    deadline = time.monotonic() + _END_TIMEOUT
    while groups := control_groups(name):
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                # The kernel needs a moment after the last process of a group has gone.
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        if time.monotonic() > deadline:
            message = f"Control groups are still in use: {', '.join(map(str, groups))}."
            raise ClusterError(message)
        time.sleep(0.02)


def remove_files(root: Path) -> None:
    """Remove the state folder. The box must be gone, and its mounts with it."""
    if root.exists():
        shutil.rmtree(root)


def disconnect(interface: str) -> None:
    """Remove this machine's end of the link, where the kernel has not yet done so."""
    if Path("/sys/class/net", interface).exists():
        # The kernel may be faster: it takes the link away with the box.
        with contextlib.suppress(ClusterError):
            run(["ip", "link", "delete", interface])
    wait_for(
        lambda: not Path("/sys/class/net", interface).exists(), what=f"{interface} to disappear", timeout=_END_TIMEOUT
    )


def connect(pid: int, *, interface: str, host: str, inner: str, routed: Iterable[str]) -> None:
    """Lay a link from this machine into the box; it disappears with the box.

    Args:
        pid: The box's first process.
        interface: The name of this machine's end; the inner end is `eth0`.
        host: This machine's address, with its prefix.
        inner: The box's address, with its prefix.
        routed: The ranges that this machine reaches through the box.
    """
    run(["ip", "link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", str(pid)])
    run(["ip", "address", "add", host, "dev", interface])
    run(["ip", "link", "set", interface, "up"])
    run(inside(pid, ["ip", "address", "add", inner, "dev", "eth0"]))
    run(inside(pid, ["ip", "link", "set", "eth0", "up"]))
    for network in routed:
        run(["ip", "route", "add", network, "via", inner.partition("/")[0], "dev", interface])
