"""The demo's play: consumers at work, and what happens to their pods meanwhile. Every wait has a deadline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.demo.report import Kill, Report
from tests.support.cluster.commands import wait_for
from tests.support.ledger import Ledger

if TYPE_CHECKING:
    from tests.demo.console import Console
    from tests.demo.stage import Stage

MESSAGES = 2000
_KILL_SCRIPT = Path(__file__).with_name("kill.py")
#: The parts of the messages that are done when something happens to the pods.
_DELETE_AT, _KILL_AT, _ROLL_AT = 0.08, 0.20, 0.35
_WORK_SECONDS = 180.0
_REDELIVERY_SECONDS = 30.0


class Play:
    """One performance."""

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console
        self._ledger = Ledger(stage.query, table="emails_sent", queue="emails")
        self._problems: list[str] = []

    def perform(self) -> Report:
        """Play it and look what came of it.

        Raises:
            ClusterError: something that must happen did not happen in time.
        """
        stage, say = self._stage, self._console.say
        stage.clear()
        say("kubectl apply: three consumers, labelled pgqrs.io/queue: emails")
        stage.deploy()
        self._problems += [f"the pod {name} has no sidecar" for name in stage.without_sidecar()]
        say(f"sending {MESSAGES} messages")
        stage.send(MESSAGES)
        with self._console.counting(self._ledger.progress):
            self._wait_done(_DELETE_AT)
            self._delete_pod()
            self._wait_done(_KILL_AT)
            kill = self._kill_process()
            self._wait_done(_ROLL_AT)
            say("--> kubectl rollout restart deployment/emails: every pod is replaced")
            stage.kubectl("rollout", "restart", "deployment/emails")
            stage.wait_rolled_out()
            left = MESSAGES - self._finished()
            say(f"--> rolled out, {left} messages left")
            if not left:
                self._problems.append("the demo proves little: the work was over before the roll-out was")
            self._wait_done(1.0)
        return Report(
            expected=MESSAGES,
            summary=self._ledger.summary(),
            redeliveries=self._ledger.redeliveries(),
            kill=kill,
            problems=self._problems,
        )

    def _finished(self) -> int:
        numbers = self._ledger.progress()
        return numbers["done"] + numbers["dead"]

    def _wait_done(self, part: float) -> None:
        wanted = round(MESSAGES * part)
        wait_for(
            lambda: self._finished() >= wanted,
            what=f"{wanted} of {MESSAGES} messages to be done",
            timeout=_WORK_SECONDS,
            interval=0.3,
        )

    def _busy_pod(self) -> str:
        """Choose a pod that holds messages and is not ending."""
        chosen: list[str] = []

        def find() -> bool:
            holders = self._ledger.holders()
            chosen[:] = [
                pod["metadata"]["name"]
                for pod in self._stage.pods()
                if "deletionTimestamp" not in pod["metadata"] and pod["metadata"]["name"] in holders and _ready(pod)
            ]
            return bool(chosen)

        wait_for(find, what="a ready pod that holds messages", timeout=_WORK_SECONDS)
        return chosen[0]

    def _delete_pod(self) -> None:
        pod = self._busy_pod()
        self._console.say(f"--> kubectl delete pod {pod}: it holds messages")
        self._stage.kubectl("delete", "pod", pod, "--wait=false")

    def _kill_process(self) -> Kill:
        pod = self._busy_pod()
        facts: dict[str, Any] = json.loads(self._stage.last_words(pod, _KILL_SCRIPT.read_text()))
        kill = Kill(pod=pod, workers=tuple(facts["workers"]), at=facts["at"])
        self._console.say(f"--> kill -9 {facts['pid']} in {pod}: it was handling {facts['messages']} message(s)")
        wait_for(
            lambda: any(again.worker in kill.workers for again in self._ledger.redeliveries()),
            what="the killed process's messages to be delivered again",
            timeout=_REDELIVERY_SECONDS,
        )
        self._console.say("--> they are in another's hands")
        return kill


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
