"""Builds the programs of the local cluster from Go modules, once for each content of the module files.

Each folder beside this file is a Go module that names one upstream program with all its dependencies (`go.mod` and
`go.sum`), but `pause`, which is our own. What was built is kept outside the checkout, under a hash of these files and
of the Go version, so a second run builds nothing and two checkouts share one cache. It never writes into the checkout.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.errors import ClusterError, MissingPrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_KUBERNETES_VERSION = "v1.36.3"
_MODULES_ROOT = Path(__file__).parent
_VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class GoModule:
    """One Go module of this folder and the programs that it gives."""

    name: str
    packages: tuple[str, ...]
    #: The only program's file name, where it differs from the last part of the package's path.
    output: str | None = None
    linker_flags: str = "-s -w"

    @property
    def root(self) -> Path:
        """The folder of the module's files."""
        return _MODULES_ROOT / self.name


_KUBERNETES_LINKER_FLAGS = " ".join(
    [
        "-s -w",
        f"-X {_VERSION_PACKAGE}.gitVersion={_KUBERNETES_VERSION}",
        f"-X {_VERSION_PACKAGE}.gitMajor={_KUBERNETES_VERSION[1:].split('.', maxsplit=1)[0]}",
        f"-X {_VERSION_PACKAGE}.gitMinor={_KUBERNETES_VERSION.split('.')[1]}",
    ]
)

KUBERNETES = GoModule(
    "kubernetes",
    tuple(
        f"k8s.io/kubernetes/cmd/{name}"
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        )
    ),
    linker_flags=_KUBERNETES_LINKER_FLAGS,
)
ETCD = GoModule("etcd", ("go.etcd.io/etcd/server/v3",), output="etcd")
CONTAINERD = GoModule(
    "containerd",
    tuple(
        f"github.com/containerd/containerd/v2/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    ),
)
COREDNS = GoModule("coredns", ("github.com/coredns/coredns",))
HELM = GoModule("helm", ("helm.sh/helm/v3/cmd/helm",))

PAUSE = GoModule("pause", ("pgqrs.io/tests/programs/pause",))

#: Pods without processes behind them, for `make bench-operator` alone.
KWOK = GoModule("kwok", ("sigs.k8s.io/kwok/cmd/kwok",))

#: The shortest build first, so that a missing registry is noticed early.
ALL_MODULES = (PAUSE, ETCD, CONTAINERD, HELM, COREDNS, KUBERNETES)


def cache_root() -> Path:
    """The folder for everything that is kept between runs: `PGQRS_TEST_CACHE`, or one below the user's cache."""
    chosen = os.environ.get("PGQRS_TEST_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pgqrs-kubernetes"


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold the cache's lock of this name; a second process waits, so that nothing is built twice at once."""
    locks = cache_root() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _go_version() -> str:
    if shutil.which("go") is None:
        message = "Go is not installed; install Go 1.26 or later (the `go` program must be on PATH)."
        raise MissingPrerequisiteError(message)
    return subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout.strip()


def _fingerprint(module: GoModule, go_version: str) -> str:
    digest = hashlib.sha256(go_version.encode())
    digest.update("\0".join([*module.packages, module.output or "", module.linker_flags]).encode())
    for path in [module.root / "go.mod", module.root / "go.sum", *sorted(module.root.glob("*.go"))]:
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(module: GoModule) -> Path:
    """Give the folder that holds the module's programs, built now where they were not built before.

    Raises:
        MissingPrerequisiteError: Go is not installed.
        ClusterError: the build failed; the message ends with the compiler's last lines.
    """
    target = cache_root() / "programs" / f"{module.name}-{_fingerprint(module, _go_version())}"
    with exclusive(f"build-{module.name}"):
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{module.name}-") as scratch:
            out = Path(scratch) / "bin"
            out.mkdir()
            destination = f"{out}/{module.output}" if module.output else f"{out}/"
            result = subprocess.run(
                ["go", "build", "-trimpath", f"-ldflags={module.linker_flags}", "-o", destination, *module.packages],
                cwd=module.root,
                env={**os.environ, "CGO_ENABLED": "0"},
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode != 0:
                tail = "\n".join(result.stderr.splitlines()[-15:])
                message = f"Building {module.name} failed; the compiler's last lines:\n{tail}"
                raise ClusterError(message)
            out.rename(target)
    return target


def build_all(modules: Iterable[GoModule] = ALL_MODULES) -> dict[str, Path]:
    """Build what is missing and give each program's path by its name."""
    programs: dict[str, Path] = {}
    for module in modules:
        programs.update({path.name: path for path in build(module).iterdir()})
    return programs
