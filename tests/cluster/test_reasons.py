"""What resources say on a real cluster where something is in their way, and the orders in which things are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.shop import eventually

if TYPE_CHECKING:
    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)

_FROZEN = "pgqrs.io/paused-reconciliation"
#: An address of RFC 5737, where nobody is.
_SILENCE = "192.0.2.1"
_HOST = "pgqrs-development-postgres.pgqrs-system.svc"


def _worker(shop: Shop, name: str, queue: str, **spec: Any) -> None:
    """Declare a worker outside of the cluster."""
    body = {"queueRef": {"name": queue}, "hostname": name, "port": 1, **spec}
    shop.apply({"apiVersion": "pgqrs.io/v1alpha1", "kind": "PgqrsWorker", "metadata": {"name": name}, "spec": body})


def _enrol(shop: Shop, name: str, queue: str, *, messages: int = 0) -> None:
    """Register a worker as a process outside of the cluster does, with messages that it holds for long."""
    shop.query(
        f"INSERT INTO pgqrs_workers (name, queue_id) SELECT '{name}:1', id FROM pgqrs_queues "
        f"WHERE queue_name = '{queue}'"
    )
    shop.query(
        "INSERT INTO pgqrs_messages (queue_id, payload, vt, read_ct, consumer_worker_id) "
        "SELECT w.queue_id, '{}', now() + interval '1 hour', 1, w.id FROM pgqrs_workers w, "
        f"generate_series(1, {messages}) WHERE w.name = '{name}:1'"
    )


def test_what_is_in_the_way_is_said_and_mended(shop: Shop) -> None:
    shop.ready_queue(heartbeatTimeout="10m")
    # A Secret that the operator may not read counts as such after ten seconds: it is looked at in the end.
    shop.declare("locked", connection={"secretRef": {"name": "not-for-operators"}})

    shop.declare("twin", queueName="emails")
    assert f"{shop.namespace}/emails" in shop.reason("Conflict", name="twin")
    shop.query("INSERT INTO pgqrs_queues (queue_name) VALUES ('theirs')")
    shop.declare("theirs", adopt="Never", maxReads=9)
    assert "spec.adopt" in shop.reason("Conflict", name="theirs")
    row = "SELECT read_limit || coalesce(owner, '-') FROM pgqrs_queues WHERE queue_name = 'theirs'"
    assert shop.query(row) == "5-"
    shop.declare("theirs", adopt="IfExists", maxReads=9)
    shop.reason("InSync", name="theirs")
    assert shop.query(row).startswith("9")

    _enrol(shop, "legacy", "theirs")
    _worker(shop, "legacy", "emails")
    assert "'theirs'" in shop.reason("WrongQueue", kind="pgqrsworker", name="legacy")

    shop.kubectl("annotate", "pgqrsqueue", "emails", f"{_FROZEN}=true")
    shop.declare(maxReads=8, heartbeatTimeout="10m")
    shop.reason("PausedReconciliation")
    assert shop.query("SELECT read_limit FROM pgqrs_queues WHERE queue_name = 'emails'") == "5"
    shop.kubectl("annotate", "pgqrsqueue", "emails", f"{_FROZEN}-")
    shop.reason("InSync")
    assert shop.query("SELECT read_limit FROM pgqrs_queues WHERE queue_name = 'emails'") == "8"

    _enrol(shop, "slow", "emails", messages=3)
    _worker(shop, "slow", "emails", state="Stopped", drainTimeout="2s")
    shop.reason("Stopped", kind="pgqrsworker", name="slow")
    assert "time to drain is over" in shop.query("SELECT stop_reason FROM pgqrs_workers WHERE name = 'slow:1'")
    assert shop.number("SELECT count(*) FROM pgqrs_messages WHERE consumer_worker_id IS NOT NULL") == 0

    assert "not-for-operators" in shop.reason("SecretForbidden", name="locked", within=30.0)


def test_a_database_that_is_silent_holds_up_no_other(shop: Shop) -> None:
    other = f"{shop.database}_other"
    shop.installation.query(f"CREATE DATABASE {other}")
    shop.set_secret(
        {
            "dsn": shop.dsn,
            "other": shop.installation.dsn(other, password=shop.password),
            "silent": shop.dsn.replace(_HOST, _SILENCE),
        }
    )
    shop.declare("nowhere", connection={"secretRef": {"key": "silent"}})
    shop.reason("DatabaseUnavailable", name="nowhere", within=40.0)
    shop.ready_queue()
    shop.ready_queue("bills", connection={"secretRef": {"key": "other"}})
    assert shop.installation.query("SELECT queue_name FROM pgqrs_queues", database=other) == "bills"
    assert shop.condition("pgqrsqueue", "nowhere")["reason"] == "DatabaseUnavailable"


def _has_a_queue(shop: Shop) -> bool:
    there = shop.query("SELECT to_regclass('pgqrs_queues') IS NOT NULL") == "t"
    return there and shop.query("SELECT count(*) FROM pgqrs_queues WHERE owner IS NOT NULL") == "1"


def test_a_queue_before_its_workers_and_a_database_before_its_queue(shop: Shop) -> None:
    shop.ready_queue(heartbeatTimeout="10m")
    _enrol(shop, "legacy", "emails")
    _worker(shop, "legacy", "emails")
    shop.reason("Working", kind="pgqrsworker", name="legacy")
    shop.kubectl("delete", "pgqrsqueue", "emails", "--timeout=20s")
    shop.reason("QueueNotFound", kind="pgqrsworker", name="legacy")
    shop.kubectl("delete", "pgqrsworker", "legacy", "--timeout=20s")
    assert shop.query("SELECT status FROM pgqrs_workers") == "ready"

    shop.ready_queue(deletionPolicy="Delete")
    shop.installation.query(f"DROP DATABASE {shop.database} WITH (FORCE)")
    shop.installation.query(f"CREATE DATABASE {shop.database}")
    eventually("the row is made again", lambda: _has_a_queue(shop), within=40.0)
    shop.installation.query(f"DROP DATABASE {shop.database} WITH (FORCE)")
    shop.reason("DatabaseNotFound", within=20.0)
    shop.kubectl("delete", "pgqrsqueue", "emails", "--wait=false")
    eventually("nothing hangs", lambda: not shop.get("pgqrsqueue", "emails"), within=60.0)
    # Whoever shows the tables after a failure finds one.
    shop.installation.query(f"CREATE DATABASE {shop.database}")
