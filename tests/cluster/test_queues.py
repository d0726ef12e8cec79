"""`PgqrsQueue` on a real cluster: it appears, follows, says what is wrong, mends itself and lets go."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import eventually
from tests.support.cluster.errors import ClusterError
from tests.support.installation import EXAMPLE

if TYPE_CHECKING:
    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)


def test_a_queue_appears_and_follows_its_resource(shop: Shop) -> None:
    shop.kubectl("apply", "-f", str(EXAMPLE / "queue.yaml"))
    shop.kubectl("wait", "pgqrsqueue/emails", "--for=condition=Ready", "--timeout=20s")
    assert (
        shop.query("SELECT queue_name, lease_duration, read_limit, paused FROM pgqrs_queues") == "emails|00:00:30|5|f"
    )

    shop.kubectl("patch", "pgqrsqueue", "emails", "--type=merge", "-p", '{"spec":{"paused":true,"maxReads":9}}')
    row = "SELECT read_limit || ' ' || paused FROM pgqrs_queues"
    eventually("the row follows", lambda: shop.query(row) == "9 true", within=5)

    shop.query("UPDATE pgqrs_queues SET paused = false")
    eventually("what was done by hand is set right", lambda: shop.query(row) == "9 true", within=30)
    eventually(
        "an event tells of it",
        lambda: any(event["reason"] == "DriftRepaired" for event in shop.items("events")),
        within=10,
    )
    shown = shop.kubectl("get", "pq", "emails").splitlines()
    assert shown[0].split()[:4] == ["NAME", "QUEUE", "READY", "DEPTH"]
    assert shown[1].split()[:3] == ["emails", "emails", "True"]


def test_every_field_reaches_its_row(shop: Shop) -> None:
    shop.query("CREATE SCHEMA app")
    shop.ready_queue(
        "bills",
        queueName="invoices",
        connection={"schema": "app", "secretRef": {"name": "pgqrs", "key": "dsn"}},
        paused=True,
        leaseDuration="90s",
        maxReads=7,
        maxDeaths=4,
        heartbeatTimeout="2m",
        retry={"firstDelay": "2s", "factor": 3, "maxDelay": "10m"},
        retention={"archivedMessages": "168h", "deadLetters": "48h", "stoppedWorkers": "24h"},
        deduplication={"window": "5m"},
    )
    columns = (
        "queue_name, paused, lease_duration, read_limit, death_limit, heartbeat_timeout, backoff_first, "
        "backoff_factor, backoff_most, archive_retention, dead_retention, worker_retention, dedup_window"
    )
    assert shop.query(f"SELECT {columns} FROM app.pgqrs_queues").split("|") == [
        "invoices", "t", "00:01:30", "7", "4", "00:02:00", "00:00:02", "3", "00:10:00", "7 days", "2 days", "1 day",
        "00:05:00",
    ]  # fmt: skip


def test_a_deleted_queue_stays_in_the_database(shop: Shop) -> None:
    shop.ready_queue()
    shop.kubectl("delete", "pgqrsqueue", "emails", "--timeout=20s")
    assert shop.query("SELECT queue_name, owner FROM pgqrs_queues") == "emails|"


def test_a_queue_that_is_to_be_deleted_with_its_data_waits_for_the_last_message(shop: Shop) -> None:
    shop.ready_queue(deletionPolicy="Delete")
    shop.send(1)
    shop.kubectl("delete", "pgqrsqueue", "emails", "--wait=false")
    assert "1 live message" in shop.reason("WaitingForMessages")
    shop.query("UPDATE pgqrs_messages SET archived_at = now()")
    eventually("the resource is gone", lambda: not shop.get("pgqrsqueue", "emails"), within=15)
    assert shop.query("SELECT count(*) FROM pgqrs_queues") == "0"


def test_without_its_secret_it_says_so_and_mends_itself(shop: Shop) -> None:
    shop.kubectl("delete", "secret", "pgqrs")
    shop.declare()
    message = shop.reason("SecretNotFound")
    assert "'pgqrs'" in message
    assert "kubectl" in message
    assert "SecretNotFound" in shop.kubectl("get", "pgqrsqueues")

    shop.set_secret({"url": "nonsense"})
    message = shop.reason("SecretKeyNotFound")
    assert "'dsn'" in message
    assert "url" in message

    shop.set_secret({"dsn": f"mysql://pgqrs:{shop.password}@db/app"})
    assert "postgresql://" in shop.reason("InvalidDsn")

    shop.set_secret({"dsn": shop.dsn})
    shop.reason("InSync", within=20)
    assert shop.query("SELECT queue_name FROM pgqrs_queues") == "emails"

    shop.kubectl("delete", "secret", "pgqrs")
    shop.reason("SecretNotFound", within=20)
    shop.set_secret({"dsn": shop.dsn})
    shop.reason("InSync", within=20)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(("5432", "5433"), "DatabaseUnavailable", id="nobody listens"),
        pytest.param(("pgqrs-development-postgres.pgqrs-system.svc", "192.0.2.1"), "DatabaseUnavailable", id="silence"),
        pytest.param(("pgqrs-development-postgres", "no-such-service"), "DatabaseUnavailable", id="no such host"),
        pytest.param(("pgqrs:", "nobody:"), "DatabaseRefused", id="wrong user"),
    ],
)
def test_a_database_that_does_not_answer_is_named_without_its_password(
    shop: Shop, change: tuple[str, str], reason: str
) -> None:
    shop.set_secret({"dsn": shop.dsn.replace(*change, 1)})
    shop.declare()
    message = shop.reason(reason)
    assert shop.database in message
    assert shop.password not in message
    assert reason in shop.kubectl("get", "pgqrsqueues")
    assert shop.condition("pgqrsqueue", "emails")["status"] == "False"

    shop.set_secret({"dsn": shop.dsn})
    shop.reason("InSync", within=20)


def test_a_duration_that_is_none_is_refused_and_one_out_of_range_is_explained(shop: Shop) -> None:
    with pytest.raises(ClusterError, match="leaseDuration"):
        shop.declare(leaseDuration="soon")
    shop.declare(leaseDuration="100h")
    message = shop.reason("InvalidSpec")
    assert "spec.leaseDuration is 100h; allowed are 1s to 12h" in message
    assert shop.condition("pgqrsqueue", "emails", "Stalled")["status"] == "True"
    shop.declare(leaseDuration="1h")
    shop.reason("InSync")


def test_the_name_in_the_database_cannot_be_changed(shop: Shop) -> None:
    shop.ready_queue(queueName="mails")
    with pytest.raises(ClusterError, match="queueName cannot be changed"):
        shop.declare(queueName="letters")


def test_a_namespace_goes_with_everything_in_it(shop: Shop) -> None:
    shop.ready_queue()
    spec = {"queueRef": {"name": "emails"}, "hostname": "outside", "port": 1}
    shop.apply({"apiVersion": "pgqrs.io/v1alpha1", "kind": "PgqrsWorker", "metadata": {"name": "w"}, "spec": spec})
    shop.reason("WaitingForWorker", kind="pgqrsworker", name="w")
    shop.kubectl("delete", "secret", "pgqrs")
    shop.installation.cluster.kubectl("delete", "namespace", shop.namespace, "--timeout=90s", timeout=100)
    left = json.loads(shop.installation.cluster.kubectl("get", "pgqrsqueues,pgqrsworkers", "-A", "-o", "json"))["items"]
    assert not [one for one in left if one["metadata"]["namespace"] == shop.namespace]
