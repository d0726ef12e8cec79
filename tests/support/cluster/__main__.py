"""The command `python -m tests.support.cluster`: makes, removes and shows the cluster, and prepares the machine."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from tests.support import packages
from tests.support.cluster import DEFAULT_NAME, choose
from tests.support.cluster.errors import ClusterError
from tests.support.cluster.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.cluster.provider import Cluster


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.support.cluster", description="A Kubernetes for tests.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, text in (
        ("up", "make the cluster run; a healthy one is kept"),
        ("down", "remove the cluster and every trace of it"),
        ("status", "say how it is; exit code 0 means healthy"),
        ("prepare", "install and build what this machine lacks for it"),
    ):
        sub = commands.add_parser(command, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--name", default=DEFAULT_NAME, help="separates several clusters (default: %(default)s)")
        if command == "up":
            sub.add_argument("--nodes", type=int, help="at least this many (default: 1)")
    return parser


def _prepare(cluster: Cluster, progress: Progress) -> None:
    groups = ["postgresql", "cluster"] if cluster.provider == "local" else ["postgresql"]
    try:
        installed = packages.install(*groups)
    except packages.PackagesMissingError as error:
        raise ClusterError(str(error)) from error
    if installed:
        progress.say(f"installed {', '.join(installed)}")
    cluster.prepare()
    progress.say("this machine is ready")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code."""
    options = _parser().parse_args(arguments)
    progress = Progress()
    try:
        cluster = choose(options.name, progress=progress)
        if options.command == "prepare":
            _prepare(cluster, progress)
        elif options.command == "up":
            cluster.up(nodes=options.nodes)
            print(
                " ".join(["export", *(f"{name}={shlex.quote(value)}" for name, value in cluster.environment.items())])
            )
        elif options.command == "down":
            cluster.down()
        else:
            status = cluster.status()
            print("\n".join(status.details))
            return 0 if status.healthy else 1
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
