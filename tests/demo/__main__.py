"""`python -m tests.demo` plays the main job on a real cluster; `python -m tests.demo down` removes what it made.

Exit codes: 0 when every promise held, 1 when one was broken or something failed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from tests.demo.console import Console
from tests.demo.play import Play
from tests.demo.stage import NAMESPACE, Stage
from tests.support.cluster import choose
from tests.support.cluster.errors import ClusterError
from tests.support.installation import SYSTEM

if TYPE_CHECKING:
    from tests.support.cluster.provider import Cluster

CLUSTER = "pgqrs-demo"


def _try_next(cluster: Cluster) -> str:
    commands = [
        f"kubectl -n {NAMESPACE} get pgqrsqueues,pgqrsworkers",
        f'kubectl -n {NAMESPACE} patch pgqrsqueue emails --type=merge -p \'{{"spec":{{"paused":true}}}}\'',
        f"kubectl -n {NAMESPACE} scale deployment emails --replicas=5",
        f"kubectl -n {NAMESPACE} logs -l app=emails -c pgqrs-sidecar --prefix",
        f"kubectl -n {SYSTEM} logs deployment/pgqrs-operator --tail=20",
    ]
    lines = ["The cluster stays. Try:", f"  export {_shell(cluster)}", *(f"  {command}" for command in commands)]
    return "\n".join([*lines, "and `make demo-down` when you are done."])


def _shell(cluster: Cluster) -> str:
    """What a shell needs to use the cluster."""
    found = cluster.environment
    words = f"KUBECONFIG={shlex.quote(found['KUBECONFIG'])}"
    if cluster.provider != "local":
        return words
    # kubectl and helm are among the cluster's own programs.
    return f"{words} PATH={shlex.quote(found['PATH'].partition(':')[0])}:$PATH"


def _play(cluster: Cluster, console: Console) -> int:
    stage = Stage(cluster, console.say)
    try:
        cluster.up()
        stage.install()
        report = Play(stage, console).perform()
        print(f"\n{report.text()}\n\n{stage.table()}")
    except ClusterError as error:
        console.say(f"FAILED: {error}")
        print(stage.diagnosis(), file=sys.stderr)
        return 1
    print(_try_next(cluster))
    return 1 if report.broken_promises() else 0


def _down(cluster: Cluster, console: Console) -> int:
    try:
        if cluster.provider == "kubeconfig":
            Stage(cluster, console.say).remove()
        cluster.down()
    except ClusterError as error:
        console.say(f"FAILED: {error}")
        return 1
    console.say("everything that the demo made is gone")
    return 0


def main() -> int:
    """Play or remove."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="The main job on a real cluster.")
    parser.add_argument("command", nargs="?", choices=("play", "down"), default="play")
    arguments = parser.parse_args()
    console = Console()
    try:
        cluster = choose(CLUSTER)
    except ClusterError as error:
        console.say(f"FAILED: {error}")
        return 1
    return (_down if arguments.command == "down" else _play)(cluster, console)


if __name__ == "__main__":
    sys.exit(main())
