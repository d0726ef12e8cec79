"""The first process of a cluster's box: prepares the box's own mounts, then keeps the components running.

It is process 1 of a process namespace, so it also collects orphans, and its end is the end of everything in the box.
It must never touch anything outside: it runs only after `unshare`, and refuses to run otherwise. Standard library
only, so that it starts fast and small.

Run as `python -m tests.support.cluster.local.supervisor STATE_FOLDER` by `box.py`; not meant for people.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.support.cluster.local.components import Component, load

#: How often components are looked after, in seconds.
_TICK = 0.05
#: A component that ended is started again after this many seconds.
_RESTART_AFTER = 1.0
_PROBE_TIMEOUT = 1.0
#: The other end of the link comes from outside; without it the box is of no use.
_LINK_TIMEOUT = 30.0

#: What the kubelet wants these machine-wide settings to be. It would change them for the whole machine; it is shown
#: files that hold its wishes instead.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
#: Folders that programs write to whatever they are told; in the box, such files go to memory.
_COVERED = ("/etc", "/opt", "/var")


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def prepare_mounts(state: Path) -> None:
    """Give the box a /run of its own and throw-away layers over the folders that stray programs write to."""
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for folder in ("netns", "lock", "state"):
        Path("/run", folder).mkdir()
    _run("mount", "--bind", str(state), "/run/state")
    for folder in _COVERED:
        layer = Path("/run/layers" + folder)
        for part in ("upper", "work"):
            (layer / part).mkdir(parents=True)
        options = f"lowerdir={folder},upperdir={layer}/upper,workdir={layer}/work"
        _run("mount", "-t", "overlay", "-o", options, "overlay", folder)
    _run("mount", "--bind", "/run/state", str(state))
    for setting, value in _KERNEL_SETTINGS.items():
        source = Path("/run/kernel", setting)
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(value + "\n")
        target = Path("/proc/sys", setting)
        if target.exists():
            _run("mount", "--bind", str(source), str(target))


def prepare_network(services: str, addresses: tuple[str, ...], rules: Path) -> None:
    """Wait for the link from outside, then set what is the box's own business.

    Raises:
        TimeoutError: Nobody brought the link.
    """
    deadline = time.monotonic() + _LINK_TIMEOUT
    while not Path("/proc/sys/net/ipv4/conf/eth0").exists():
        if time.monotonic() > deadline:
            message = "no link came from outside"
            raise TimeoutError(message)
        time.sleep(_TICK)
    _run("ip", "link", "set", "lo", "up")
    for address in addresses:
        _run("ip", "address", "add", f"{address}/32", "dev", "lo")
    # There is no default route; without this one, the API server could not send anything to a Service.
    _run("ip", "route", "add", services, "dev", "lo")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run("nft", "--file", str(rules))


class Supervisor:
    """Starts components in order and again when they end."""

    def __init__(self, state: Path, components: tuple[Component, ...]) -> None:
        self._state = state
        self._components = components
        self._processes: dict[int, str] = {}
        self._running: dict[str, int] = {}
        self._ready: set[str] = set()
        self._starts = {component.name: 0 for component in components}
        self._not_before: dict[str, float] = {}
        self._tls: ssl.SSLContext | None = None

    def run(self) -> None:
        """Look after the components for ever."""
        while True:
            changed = self._collect()
            for component in self._components:
                if component.name not in self._running:
                    changed |= self._start_if_due(component)
                elif component.name not in self._ready and self._answers(component):
                    self._ready.add(component.name)
                    changed = True
            if changed:
                self._report()
            time.sleep(_TICK)

    def _collect(self) -> bool:
        changed = False
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return changed
            if pid == 0:
                return changed
            name = self._processes.pop(pid, None)
            if name is not None:
                del self._running[name]
                self._ready.discard(name)
                self._not_before[name] = time.monotonic() + _RESTART_AFTER
                changed = True

    def _start_if_due(self, component: Component) -> bool:
        name = component.name
        if time.monotonic() < self._not_before.get(name, 0.0) or not self._ready.issuperset(component.after):
            return False
        log = os.open(self._state / "logs" / f"{name}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        try:
            pid = os.posix_spawn(
                component.argv[0],
                component.argv,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
                setsid=True,
            )
        finally:
            os.close(log)
        self._processes[pid] = name
        self._running[name] = pid
        self._starts[name] += 1
        return True

    def _answers(self, component: Component) -> bool:
        if component.ready is None:
            return True
        if component.ready.startswith("unix:"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(_PROBE_TIMEOUT)
                return client.connect_ex(component.ready.removeprefix("unix:")) == 0
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=str(self._state / "credentials" / "ca.crt"))
        try:
            with urllib.request.urlopen(component.ready, timeout=_PROBE_TIMEOUT, context=self._tls):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def _report(self) -> None:
        report = {
            name: {"pid": self._running.get(name), "starts": starts, "ready": name in self._ready}
            for name, starts in self._starts.items()
        }
        scratch = self._state / ".supervisor.json"
        scratch.write_text(json.dumps(report, indent=1))
        scratch.rename(self._state / "supervisor.json")


def main() -> None:
    """Prepare the box and supervise what the state folder names."""
    if os.getpid() != 1:
        sys.exit("This is a part of the test cluster: use `python -m tests.support.cluster`.")
    state = Path(sys.argv[1])
    box = json.loads((state / "box.json").read_text())
    components = load((state / "components.json").read_text())
    prepare_mounts(state)
    prepare_network(box["services"], tuple(box["addresses"]), state / "network.nft")
    Supervisor(state, components).run()


if __name__ == "__main__":
    main()
