"""What a status shows beside its conditions. Pure; it does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgqrs_operator import declarations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pgqrs.fleet import FleetCounts, FleetQueue
    from pgqrs_operator.facts import WorkerReport
    from pgqrs_operator.store import Worker
    from pgqrs_operator.verdicts import Verdict


#: As many as the schema takes.
_MOST_IDS = 1000


def queue_details(
    row: FleetQueue | None, counts: FleetCounts | None, verdict: Verdict, *, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Give the fields of a queue's status.

    Args:
        row: its row, if it is there.
        counts: what was counted, if it was.
        verdict: what is said of it.
        told: its status as it stands.
    """
    if verdict.reason == "Conflict":
        # The row of its name, and what is in it, is somebody else's.
        return {}
    if row is None:
        # Its messages may be there; once the row can be made again, they are found by this.
        return _as_told(told, "queueName", "queueId")
    details: dict[str, Any] = {"queueName": row.info.queue_name, "queueId": row.info.id}
    if counts is None:
        details |= _as_told(told, "messages", "oldestReadySince", "workers")
    else:
        messages = counts.messages
        details["messages"] = {
            "ready": messages.ready,
            "delayed": messages.delayed,
            "leased": messages.leased,
            "dead": messages.dead,
            **({"capped": list(messages.capped)} if messages.capped else {}),
        }
        if counts.oldest_since is not None:
            details["oldestReadySince"] = counts.oldest_since.strftime("%Y-%m-%dT%H:%M:%SZ")
        details["workers"] = {"ready": counts.ready, "suspended": counts.suspended, "stopped": counts.stopped}
    return details


def _as_told(told: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {field: told[field] for field in fields if field in told}


def worker_details(
    worker: Worker, report: WorkerReport | None, verdict: Verdict, *, counted: bool, now: datetime
) -> dict[str, Any]:
    """Give the fields of a worker's status.

    Args:
        worker: the resource.
        report: what its rows show, if it looks after any.
        verdict: what is said of it.
        counted: whether messages were counted just now.
        now: when a drain that is new began.
    """
    if report is None:
        return {}
    # What a busy worker holds changes all the time; it is told as often as the queue's messages are counted.
    told = worker.status.get("leasedMessages")
    settled = report.state == worker.status.get("state") == "Ready" and told is not None
    details: dict[str, Any] = {
        "workerIds": list(report.worker_ids[:_MOST_IDS]),
        "state": report.state,
        "leasedMessages": told if settled and not counted else report.leased,
    }
    if worker.pod_name is not None:
        details["pod"] = worker.pod_name
    if report.stale is not None:
        details["heartbeat"] = "Stale" if report.stale else "Fresh"
    if verdict.reason == "Draining" and _is_to_stop(worker):
        since = declarations.draining_since(worker) or now
        details["drain"] = {"generation": worker.generation, "since": since.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    return details


def _is_to_stop(worker: Worker) -> bool:
    return worker.deleting is not None or (worker.spec is not None and worker.spec.state == "Stopped")
