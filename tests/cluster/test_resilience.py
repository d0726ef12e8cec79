"""Trouble around the operator: the API server goes away, the operator is killed, others write, passwords change.

Whatever is declared meanwhile comes true, and no message of a process that lives is given to another one.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.cluster.declared import QUEUES, STEADY, WORKERS, Declared
from tests.cluster.nodes import API_SERVER, OPERATOR
from tests.cluster.operators import Operators
from tests.cluster.shop import Shop, eventually
from tests.cluster.storm import CONFLICT, DONE, LABEL, Storm
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.cluster.direct import Direct
    from tests.cluster.nodes import Nodes
    from tests.support.installation import Installation

pytestmark = pytest.mark.timeout(300)

#: Nobody gets a message because a lease or a heartbeat ran out.
_PATIENT = {"leaseDuration": "10m", "heartbeatTimeout": "10m"}
_OURS = "pgqrs.io/finalizer"
_FOREIGN = ("example.test/first", "example.test/second")
#: Of queues, workers, pods and the Lease.
_WATCHES = 4
#: The operators that are killed one after the other: the kubelet starts a container later and later.
_KILLED = ("leader", "leader", "both", "leader")


# -- the API server


def _answers(shop: Shop) -> bool:
    try:
        shop.kubectl("get", "--raw", "/readyz", "--request-timeout=1s", timeout=5.0)
    except ClusterError:
        return False
    return True


def _handled(shop: Shop) -> int:
    return shop.number("SELECT count(*) FROM emails_sent WHERE ended_at IS NOT NULL")


def _keep_changing(declared: Declared, names: Iterable[str], over: threading.Event) -> None:
    """Declare something else of queues again and again, also while nobody takes it."""
    for limit in range(6, 1_000_000):
        declared.together(partial(declared.queue, name, maxReads=limit) for name in names)
        if over.wait(0.2):
            return


@pytest.mark.usefixtures("operators")
def test_an_api_server_that_goes_away_frees_nothing_and_what_changes_meanwhile_comes_true(
    shop: Shop, api: Direct, nodes: Nodes
) -> None:
    declared = Declared(shop, api)
    names = [f"queue-{number}" for number in range(10)]
    declared.first("emails", **_PATIENT)
    declared.together(partial(declared.queue, name) for name in names)
    declared.wait_converged(within=40.0)
    shop.deploy(replicas=2, SEND_SECONDS="2")
    shop.send(600)
    eventually("both pods are at work", lambda: shop.in_progress() == 8, within=20.0)

    # Dead for as long as its start takes, and there but silent for longer than a leader may be without it.
    for how, seconds in ((signal.SIGKILL, 0.0), (signal.SIGSTOP, 10.0)):
        before, over = _handled(shop), threading.Event()
        with ThreadPoolExecutor(1) as threads:
            changing = threads.submit(_keep_changing, declared, names, over)
            try:
                assert nodes.signal(API_SERVER, how, seconds=seconds)
                eventually("the API server is away", lambda: not _answers(shop), within=10.0)
                eventually("the API server is back", lambda: _answers(shop), within=60.0)
            finally:
                over.set()
            changing.result()
        declared.together(partial(declared.queue, name, paused=seconds > 0) for name in names)
        declared.wait_converged(within=90.0)
        # The pods need neither the API server nor the operator.
        assert _handled(shop) > before

    assert shop.number("SELECT count(*) FROM pgqrs_workers WHERE status = 'stopped'") == 0
    assert shop.redelivered() == 0
    assert declared.warnings() == []
    for (name, reason), count in declared.events().items():
        assert reason in {"Created", "Updated", "InSync"}
        assert count <= declared.changes[name]

    # It is not deaf now: the end of a pod is seen.
    gone = shop.pod()
    shop.kubectl("delete", "pod", gone, "--grace-period=0", "--force", "--wait=false")
    stopped = f"SELECT count(*) FROM pgqrs_workers WHERE pod_name = '{gone}' AND status <> 'stopped'"
    eventually("its workers are stopped", lambda: shop.number(stopped) == 0, within=30.0)
    eventually("its messages are delivered again", shop.redelivered, within=30.0)


# -- the operator


def _shaken(declared: Declared, chance: random.Random, fresh: Iterator[str]) -> Iterator[partial[None]]:
    """Change most of what is declared, and delete and make some."""
    for name in [name for name in declared.queues if name != STEADY]:
        fate = chance.random()
        if fate < 0.2:
            yield partial(declared.drop_queue, name)
            policy = chance.choice(["Retain", "Delete"])
            yield partial(declared.queue, next(fresh), deletionPolicy=policy, maxReads=chance.randint(1, 99))
        elif fate < 0.9:
            yield partial(declared.queue, name, maxReads=chance.randint(1, 99), paused=chance.random() < 0.5)
    for name in list(declared.workers):
        if chance.random() < 0.1:
            yield partial(declared.drop_worker, name)
        else:
            yield partial(declared.worker, name, chance.choice(["Ready", "Suspended"]))


def test_operators_that_are_killed_at_any_moment_leave_nothing_undone(
    shop: Shop, api: Direct, operators: Operators, nodes: Nodes
) -> None:
    seed = random.randrange(1 << 32)
    print(f"random.Random({seed})")
    chance, fresh = random.Random(seed), (f"queue-{number}" for number in range(1_000_000))
    declared = Declared(shop, api)
    declared.first(STEADY, **_PATIENT)
    workers = [f"worker-{number}" for number in range(20)]
    declared.enrol(workers)
    changes = [partial(declared.queue, next(fresh), maxReads=chance.randint(1, 99)) for _ in range(40)]
    changes += [partial(declared.worker, name, chance.choice(["Ready", "Suspended"])) for name in workers]
    for who in _KILLED:
        uids, leader, taken = operators.uids(), operators.leader(), operators.taken()
        declared.together(changes)
        # The moment is what is left to chance here.
        time.sleep(chance.uniform(0.0, 1.0))
        victims = list(uids) if who == "both" else [leader]
        # The other one may be dead at this moment.
        assert [name for name in victims if nodes.signal(OPERATOR, signal.SIGKILL, pod=uids[name])]
        eventually("another process leads", partial(operators.taken_since, taken), within=60.0)
        changes = list(_shaken(declared, chance, fresh))
    declared.together(changes)
    declared.wait_converged(within=60.0)
    assert declared.warnings() == []

    # No finalizer keeps anything.
    shop.kubectl("delete", f"{WORKERS},{QUEUES}", "--all", "--timeout=30s")


# -- others that write


def test_other_writers_of_the_same_objects_hold_up_nothing_and_lose_nothing(shop: Shop, api: Direct) -> None:
    declared = Declared(shop, api, finalizers=_FOREIGN)
    # Few, so that each of them is written to many times a second.
    names, workers = [f"queue-{number}" for number in range(4)], [f"worker-{number}" for number in range(2)]
    declared.first(STEADY, **_PATIENT)
    declared.together(partial(declared.queue, name) for name in names)
    declared.wait_converged(within=40.0)
    declared.enrol(workers)
    declared.together(partial(declared.worker, name, "Ready") for name in workers)
    doomed = api.path(QUEUES, names[-1])
    try:
        paths = [*(api.path(QUEUES, name) for name in names), *(api.path(WORKERS, name) for name in workers)]
        with Storm(api, paths) as storm:
            for limit, state in ((6, "Suspended"), (7, "Ready"), (8, "Suspended")):
                declared.together(
                    [
                        *(partial(declared.queue, name, maxReads=limit) for name in names),
                        *(partial(declared.worker, name, state) for name in workers),
                    ]
                )
                declared.wait_rows(within=30.0)
            # What comes and what goes in the middle of it.
            declared.queue("late", maxReads=9)
            paths.append(api.path(QUEUES, "late"))
            storm.paths = paths
            declared.wait_rows(within=30.0)
            # All of them at one object, whose finalizers are others with nearly every look at it.
            storm.paths = [doomed]
            declared.drop_queue(names[-1])
            eventually("it is let go", lambda: _finalizers(api, doomed) == sorted(_FOREIGN), within=30.0)
        print(f"answers to the others' writes: {dict(storm.answers)}")
        assert storm.answers[DONE] > 200
        assert storm.answers[CONFLICT] > 0
        api.insist("PATCH", doomed, {"metadata": {"finalizers": []}})
        declared.wait_converged(within=30.0)
        for path in set(paths) - {doomed}:
            body = api.insist("GET", path)
            assert sorted(body["metadata"]["finalizers"]) == sorted([*_FOREIGN, _OURS])
            assert body["metadata"]["labels"] == {LABEL: storm.labels[path]}
        assert declared.warnings() == []
    finally:
        # Nobody else takes them off, and the namespace is to go.
        for plural in (QUEUES, WORKERS):
            for body in api.items(plural):
                left = [] if "deletionTimestamp" in body["metadata"] else [_OURS]
                api.insist("PATCH", api.path(plural, body["metadata"]["name"]), {"metadata": {"finalizers": left}})


def _finalizers(api: Direct, path: str) -> list[str]:
    return sorted(api.insist("GET", path)["metadata"].get("finalizers", []))


def test_a_leader_whose_watches_fall_silent_finds_what_changes(
    shop: Shop, installation: Installation, nodes: Nodes
) -> None:
    operators = Operators(installation)
    leader = operators.settled()
    uid, limit = operators.uids()[leader], "SELECT read_limit FROM pgqrs_queues"
    shop.ready_queue(maxReads=6)
    try:
        eventually("its watches are deaf", lambda: _deaf(shop, nodes, uid), within=60.0)
        restarts, taken = operators.restarts(leader), operators.taken()
        shop.declare(maxReads=8)
        # Long before the watch counts as dead, which has shown something just now.
        eventually("the row follows", lambda: shop.query(limit) == "8", within=40.0)
        shop.reason("InSync")
        assert (operators.restarts(leader), operators.taken()) == (restarts, taken)
        assert operators.leader() == leader
    finally:
        # Its deafness goes with it.
        operators.renew()


def _deaf(shop: Shop, nodes: Nodes, uid: str) -> bool:
    """Let an operator's watches fall silent, after that of queues has shown something; tell whether all were there."""
    shop.kubectl("annotate", "pgqrsqueue", "emails", f"shown={time.monotonic()}", "--overwrite")
    return nodes.deafen(OPERATOR, pod=uid, watches=_WATCHES)


# -- Secrets


def test_a_password_and_a_database_that_change_are_followed(shop: Shop) -> None:
    role, elsewhere = f"role_of_{shop.database}", f"{shop.database}_elsewhere"
    shop.query(f"CREATE ROLE {role} LOGIN PASSWORD 'first' IN ROLE pgqrs")
    shop.query(f"CREATE DATABASE {elsewhere} OWNER {role}")
    mine = shop.dsn.replace(f"pgqrs:{shop.password}@", f"{role}:first@")
    shop.set_secret({"dsn": mine})
    shop.ready_queue(maxReads=6)

    # Whoever rotates a password ends the sessions of the old one.
    shop.query(f"ALTER ROLE {role} PASSWORD 'second'")
    shop.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
    shop.reason("DatabaseRefused", within=30.0)
    shop.set_secret({"dsn": mine.replace(":first@", ":second@")})
    shop.reason("InSync", within=30.0)
    shop.declare(maxReads=7)
    limit = "SELECT read_limit FROM pgqrs_queues"
    eventually("the row follows", lambda: shop.query(limit) == "7", within=20.0)

    shop.set_secret({"dsn": mine.replace(":first@", ":second@").replace(f"/{shop.database}", f"/{elsewhere}")})
    other = Shop(shop.installation, shop.namespace)
    other.database = elsewhere
    exists = "SELECT count(*) FROM pg_tables WHERE tablename = 'pgqrs_queues'"
    eventually("the new database has its tables", lambda: other.number(exists), within=30.0)
    eventually("the new row is as declared", lambda: other.query(limit) == "7", within=30.0)
    shop.declare(maxReads=8)
    eventually("the new row follows", lambda: other.query(limit) == "8", within=20.0)
    shop.reason("InSync")
    assert shop.query(limit) == "7"
