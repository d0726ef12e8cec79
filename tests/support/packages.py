"""Installs what tests and the demo need of the machine itself: Debian packages, and only those that are missing.

What is there is found by its programs, not by the package's name, so that another distribution's are as good. Nothing
is started: a PostgreSQL server comes without the database that Debian would make and run, PgBouncer stands still.

    python -m tests.support.packages postgresql
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.postgres import PostgresMissingError, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Where programs of the machine are, also for people whose PATH has no folder for those of root.
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_CREATE_CLUSTER = Path("/etc/postgresql-common/createcluster.conf")
_POLICY = Path("/usr/sbin/policy-rc.d")
_CREATE_SETTING = re.compile(r"^\s*#?\s*create_main_cluster\s*=.*$", re.MULTILINE)


class PackagesMissingError(Exception):
    """Packages are missing and cannot be installed by this program; the message names them."""


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package and how to tell that what it brings is there."""

    name: str
    present: Callable[[], bool]


def _programs(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name, path=_SEARCH_PATH) for name in names)


def _files(*paths: str) -> Callable[[], bool]:
    return lambda: all(Path(path).exists() for path in paths)


def _has_postgresql() -> bool:
    try:
        program("initdb")
        program("pg_ctl")
    except PostgresMissingError:
        return False
    return True


#: What each job needs.
GROUPS: dict[str, tuple[Package, ...]] = {
    "postgresql": (Package("postgresql", _has_postgresql), Package("pgbouncer", _programs("pgbouncer"))),
    "cluster": (
        Package("buildah", _programs("buildah")),
        Package("containernetworking-plugins", _files("/usr/lib/cni/ptp", "/usr/lib/cni/host-local")),
        Package("debian-archive-keyring", _files("/usr/share/keyrings/debian-archive-keyring.gpg")),
        Package("debootstrap", _programs("debootstrap")),
        Package("iproute2", _programs("ip")),
        Package("mount", _programs("mount")),
        Package("nftables", _programs("nft")),
        Package("runc", _programs("runc")),
        Package("util-linux", _programs("nsenter", "setsid", "unshare")),
    ),
}


def missing(*groups: str) -> list[str]:
    """Give the names of the packages that these jobs need and the machine lacks."""
    return [package.name for group in groups for package in GROUPS[group] if not package.present()]


def install(*groups: str) -> list[str]:
    """Install what these jobs need and give the names of what was installed.

    Raises:
        PackagesMissingError: This is not Debian or not root, or apt-get failed.
    """
    names = missing(*groups)
    if not names:
        return []
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        message = (
            f"This machine lacks {', '.join(names)} (names of Debian packages); install them, or run this as root."
        )
        raise PackagesMissingError(message)
    _apt("update", "--quiet")
    with _no_database_made() if "postgresql" in names else contextlib.nullcontext(), _nothing_started():
        _apt("install", "--quiet", "--yes", "--no-install-recommends", *names)
    if left := missing(*groups):
        message = f"{', '.join(left)} installed without an error, but what they should bring is not there."
        raise PackagesMissingError(message)
    return names


@contextlib.contextmanager
def _no_database_made() -> Iterator[None]:
    """Keep PostgreSQL's package from making a database and running a server on it, as it does by itself."""
    if not _CREATE_CLUSTER.exists():
        # This package brings the setting; the server's comes after it.
        _apt("install", "--quiet", "--yes", "--no-install-recommends", "postgresql-common")
    before = _CREATE_CLUSTER.read_text()
    without = _CREATE_SETTING.sub("create_main_cluster = false", before)
    if not _CREATE_SETTING.search(before):
        without += "\ncreate_main_cluster = false\n"
    _CREATE_CLUSTER.write_text(without)
    try:
        yield
    finally:
        _CREATE_CLUSTER.write_text(before)


@contextlib.contextmanager
def _nothing_started() -> Iterator[None]:
    """Keep packages from starting their services; Debian's scripts ask this program whether they may."""
    if _POLICY.exists():
        # Somebody decided this already, as in most images of containers.
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _apt(*arguments: str) -> None:
    result = subprocess.run(
        ["apt-get", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        said = "\n".join((result.stdout + result.stderr).strip().splitlines()[-15:])
        message = f"`apt-get {arguments[0]}` failed:\n{said}"
        raise PackagesMissingError(message)


def main(arguments: Sequence[str]) -> int:
    """Install the named groups and give the exit code."""
    unknown = [group for group in arguments if group not in GROUPS]
    if unknown or not arguments:
        print(f"usage: python -m tests.support.packages [{' | '.join(GROUPS)}]...", file=sys.stderr)
        return 2
    try:
        installed = install(*arguments)
    except PackagesMissingError as error:
        print(error, file=sys.stderr)
        return 1
    if installed:
        print(f"installed {', '.join(installed)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
