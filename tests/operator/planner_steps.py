"""What people, processes and the cluster do to a `Cluster` of `planner_model`, one step at a time, at random."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from pgqrs.backoff import Backoff
from pgqrs.models import WORKING, QueuePolicy, QueueRetention, WorkerStatus
from pgqrs_operator.facts import Key
from tests.operator.planner_rows import QueueRow, WorkerRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.operator.planner_model import Cluster

#: Every `PgqrsQueue` that there may be, and the name of its queue: two want the same.
QUEUES = {Key("shop", "a"): "a", Key("shop", "b"): "b", Key("web", "second"): "a", Key("web", "c"): "c"}
_PORT = 7
#: Every `PgqrsWorker`: the pod that owns it, or the port of its row. Two want the same pod, two the same row, and one
#: has the name of a pod that is not its own.
WORKERS: dict[Key, tuple[str | None, int]] = {
    Key("shop", "web-1"): ("uid-1", _PORT),
    Key("shop", "mine"): ("uid-1", _PORT),
    Key("shop", "web-2"): (None, _PORT),
    Key("shop", "same"): (None, _PORT),
    Key("shop", "other"): (None, 8),
}
#: The rows of workers that may register: their pod, or none.
ROW_NAMES = {
    "web-1.shop:1": "uid-1",
    "web-1.shop:2": "uid-1",
    "web-2.shop:1": "uid-2",
    "legacy:7": None,
    "legacy:8": None,
}
ROW_QUEUES = ("a", "b", "c", "wild")
#: Nobody, every resource, one that is gone, and one of another cluster.
OWNERS = (None, *(f"{key.namespace}/{key.name}" for key in QUEUES), "shop/gone", "west/shop/a")
#: Durations as people write them. All of them are allowed everywhere.
SECONDS = {"15s": 15, "30s": 30, "60s": 60, "1m30s": 90, "1h": 3600, "2h": 7200}
#: Specifications that are refused, by the schema or by the operator.
INVALID: tuple[dict[str, Any], ...] = (
    {"leaseDuration": "13h"},
    {"heartbeatTimeout": "1s"},
    {"maxReads": 0},
    {"maxDeaths": 0},
    {"deduplication": {"window": "31d"}},
    {"retry": {"factor": 0}},
    {"retry": {"maxDelay": "31d"}},
    {"retention": {"deadLetters": "soon"}},
)

#: What somebody may have written into a status for the id of a row, and is none, or is no row's yet.
NO_IDS = (None, 0, -1, 10**9, 2**63, "1", 1.0, True)

_times = st.sampled_from(sorted(SECONDS))
_retries = st.fixed_dictionaries({}, optional={"firstDelay": _times, "factor": st.integers(1, 9), "maxDelay": _times})
_retentions = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("archivedMessages", "deadLetters", "stoppedWorkers"), _times)
)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "paused": st.booleans(),
        "leaseDuration": _times,
        "maxReads": st.integers(1, 9),
        "maxDeaths": st.integers(1, 9),
        "heartbeatTimeout": _times,
        "retry": _retries,
        "deduplication": st.fixed_dictionaries({}, optional={"window": _times}),
        "retention": _retentions,
        "adopt": st.sampled_from(["IfExists", "Never"]),
        "deletionPolicy": st.sampled_from(["Retain", "Delete"]),
    },
)


def _time(values: Mapping[str, Any], name: str, default: str) -> timedelta:
    return timedelta(seconds=SECONDS[values.get(name, default)])


def expected(spec: Mapping[str, Any]) -> tuple[QueuePolicy, QueueRetention | None]:
    """Say what a row must hold that is as declared; None where the retention is left as it is."""
    retry, kept, unique = spec.get("retry", {}), spec.get("retention"), spec.get("deduplication", {})
    policy = QueuePolicy(
        paused=spec.get("paused", False),
        lease_duration=_time(spec, "leaseDuration", "30s"),
        read_limit=spec.get("maxReads", 5),
        death_limit=spec.get("maxDeaths", 3),
        heartbeat_timeout=_time(spec, "heartbeatTimeout", "60s"),
        deduplication_window=timedelta(0) if "window" not in unique else _time(unique, "window", ""),
        backoff=Backoff(
            first=timedelta(seconds=1) if "firstDelay" not in retry else _time(retry, "firstDelay", ""),
            factor=retry.get("factor", 4),
            most=_time(retry, "maxDelay", "1h"),
        ),
    )
    if kept is None:
        return policy, None
    archived, dead, workers = (
        _time(kept, name, "") if name in kept else None
        for name in ("archivedMessages", "deadLetters", "stoppedWorkers")
    )
    return policy, QueueRetention(archived=archived, dead=dead, workers=workers)


_policies = st.builds(
    lambda spec, jitter: replace(expected(spec)[0], backoff=replace(expected(spec)[0].backoff, jitter=jitter)),
    SPECS,
    st.sampled_from([0.5, 0.1]),
)
_kept = _retentions.map(lambda kept: expected({"retention": kept})[1] or QueueRetention())
_numbers = st.integers(0, 7)
_looks = st.tuples(
    st.just("look after"), st.sampled_from(sorted(WORKERS)), st.sampled_from([None, "Ready", "Suspended", "Stopped"])
)
_step = st.one_of(
    st.tuples(st.just("declare"), st.sampled_from(sorted(QUEUES)), SPECS | st.sampled_from(INVALID)),
    st.tuples(st.just("delete"), st.sampled_from(sorted(QUEUES) + sorted(WORKERS))),
    st.tuples(st.just("freeze"), st.sampled_from(sorted(QUEUES) + sorted(WORKERS)), st.booleans()),
    # More often than the rest, because nothing happens to workers otherwise.
    *[_looks] * 3,
    st.tuples(st.just("drained for long"), st.sampled_from(sorted(WORKERS))),
    st.tuples(
        st.just("pod"), st.sampled_from(["uid-1", "uid-2"]), st.sampled_from(["running", "ending", "ended", "unknown"])
    ),
    st.tuples(st.just("row"), st.sampled_from(ROW_QUEUES), _policies, _kept, st.sampled_from(OWNERS)),
    st.tuples(st.just("row removed"), st.sampled_from(ROW_QUEUES)),
    st.tuples(st.just("status says"), st.sampled_from(sorted(QUEUES)), st.sampled_from(NO_IDS)),
    st.tuples(st.just("status names a queue"), st.sampled_from(sorted(QUEUES)), _numbers),
    st.tuples(st.just("sent"), st.sampled_from(ROW_QUEUES)),
    st.tuples(st.just("registered"), st.sampled_from(sorted(ROW_NAMES)), st.sampled_from(ROW_QUEUES)),
    st.tuples(st.just("leased"), _numbers),
    st.tuples(st.just("finished"), _numbers),
    st.tuples(st.just("paused"), _numbers, st.sampled_from(["ready", "polling", "interrupted", "suspended"])),
    st.tuples(st.just("silent"), _numbers, st.booleans()),
    st.tuples(st.just("terminating"), _numbers),
)
#: So much is there already in every second world: declared queues with messages, every worker, a pod that runs.
_CROWD: list[tuple[Any, ...]] = [
    ("declare", Key("shop", "a"), {}),
    ("declare", Key("shop", "b"), {}),
    *(("row", name, QueuePolicy(), QueueRetention(), None) for name in ROW_QUEUES),
    *(("registered", name, "b" if name.endswith("8") else "a") for name in ROW_NAMES),
    ("pod", "uid-1", "running"),
    *(("look after", key, "Suspended") for key in WORKERS),
    *(("sent", "a") for _ in range(4)),
]
STEPS = st.builds(
    lambda first, more: [*first, *more], st.sampled_from([[], _CROWD]), st.lists(_step, min_size=1, max_size=25)
)


def do(cluster: Cluster, step: tuple[Any, ...]) -> None:
    """Let one thing happen; what cannot be does not."""
    what, *about = step
    _DOINGS[what](cluster, *about)


def _declare(cluster: Cluster, key: Key, spec: dict[str, Any]) -> None:
    cluster.put("PgqrsQueue", key, spec | ({"queueName": QUEUES[key]} if key.name != QUEUES[key] else {}))


def _look_after(cluster: Cluster, key: Key, state: str | None) -> None:
    pod, port = WORKERS[key]
    spec = {"queueRef": {"name": "a" if port == _PORT else "b"}} | ({"state": state} if state else {})
    cluster.put("PgqrsWorker", key, spec | ({} if pod else {"hostname": "legacy", "port": port}), pod)


def _resource(cluster: Cluster, key: Key) -> dict[str, Any]:
    return cluster.queues.get(key) or cluster.workers.get(key) or {"metadata": {}}


def _delete(cluster: Cluster, key: Key) -> None:
    _resource(cluster, key)["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"


def _freeze(cluster: Cluster, key: Key, on: bool) -> None:  # noqa: FBT001 - a step is a tuple
    _resource(cluster, key)["metadata"]["annotations"] = {"pgqrs.io/paused-reconciliation": "true"} if on else {}


def _drained_for_long(cluster: Cluster, key: Key) -> None:
    _resource(cluster, key)["status"] = {"drain": {"generation": 1, "since": "2020-01-01T00:00:00+00:00"}}


def _pod(cluster: Cluster, uid: str, state: str) -> None:
    cluster.pods[uid] = state
    if state == "unknown":
        del cluster.pods[uid]


def _row(cluster: Cluster, name: str, policy: QueuePolicy, kept: QueueRetention, owner: str | None) -> None:
    row = cluster.rows.queues.get(name)
    if row is None:
        cluster.rows.make(name, QueueRow(policy, kept, owner))
    else:
        row.policy, row.retention, row.owner = policy, kept, owner


def _row_removed(cluster: Cluster, name: str) -> None:
    """Remove a row by hand, with its workers; what a worker still held would be another matter."""
    held = any(row.held for row in cluster.rows.workers.values() if row.queue == name)
    if name in cluster.rows.queues and not held:
        cluster.rows.remove(name)


def _status_says(cluster: Cluster, key: Key, row_id: object) -> None:
    if key in cluster.queues:
        cluster.queues[key]["status"] = {"queueId": row_id}


def _status_names_a_queue(cluster: Cluster, key: Key, number: int) -> None:
    _status_says(cluster, key, number % (cluster.rows.drawn + 1))


def _sent(cluster: Cluster, name: str) -> None:
    if name in cluster.rows.queues:
        cluster.rows.queues[name].free += 1


def _registered(cluster: Cluster, name: str, queue: str) -> None:
    live = {row.name for row in cluster.rows.alive().values()}
    if queue in cluster.rows.queues and name not in live:
        number = 1 + max(cluster.rows.workers, default=0)
        cluster.rows.workers[number] = WorkerRow(name, queue, ROW_NAMES[name])


def _any(cluster: Cluster, number: int) -> Iterator[WorkerRow]:
    """Give one of the workers that are alive, if there is one."""
    alive = list(cluster.rows.alive().values())
    if alive:
        yield alive[number % len(alive)]


def _leased(cluster: Cluster, number: int) -> None:
    for row in _any(cluster, number):
        queue = cluster.rows.queues[row.queue]
        if queue.free and row.status in WORKING and not queue.policy.paused:
            queue.free, row.held = queue.free - 1, row.held + 1


def _finished(cluster: Cluster, number: int) -> None:
    for row in _any(cluster, number):
        row.held = max(0, row.held - 1)


def _paused(cluster: Cluster, number: int, status: str) -> None:
    for row in _any(cluster, number):
        if not (row.terminating or (row.held and status == "suspended")):
            row.status = WorkerStatus(status)


def _silent(cluster: Cluster, number: int, on: bool) -> None:  # noqa: FBT001 - a step is a tuple
    for row in _any(cluster, number):
        row.silent = on


def _terminating(cluster: Cluster, number: int) -> None:
    for row in _any(cluster, number):
        row.terminating = row.pod is not None
        if row.terminating and row.status in WORKING:
            row.status = WorkerStatus.INTERRUPTED


_DOINGS: dict[str, Callable[..., None]] = {
    "declare": _declare,
    "look after": _look_after,
    "delete": _delete,
    "freeze": _freeze,
    "drained for long": _drained_for_long,
    "pod": _pod,
    "row": _row,
    "row removed": _row_removed,
    "status says": _status_says,
    "status names a queue": _status_names_a_queue,
    "sent": _sent,
    "registered": _registered,
    "leased": _leased,
    "finished": _finished,
    "paused": _paused,
    "silent": _silent,
    "terminating": _terminating,
}
