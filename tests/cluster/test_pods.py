"""Pods of a queue on a real kubelet: they register, drain, die and are paused; nothing is lost and nothing is stuck."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import DIES_OF_SIGTERM, IGNORES_SIGTERM, eventually
from tests.support.installation import EXAMPLE_IMAGE, SYSTEM

if TYPE_CHECKING:
    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)


def test_the_label_brings_a_worker_that_lives_with_its_pod(shop: Shop) -> None:
    shop.ready_queue()
    shop.deploy()
    name = shop.pod()
    pod = shop.get("pod", name)
    row = shop.query("SELECT name, pod_name, pod_namespace, pod_uid, container, status FROM pgqrs_workers")
    assert row == f"{name}.{shop.namespace}:1|{name}|{shop.namespace}|{pod['metadata']['uid']}|app|ready"
    worker = eventually("the pod has its resource", lambda: shop.get("pgqrsworker", name), within=5)
    assert worker["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]
    shop.reason("Working", kind="pgqrsworker", name=name)
    assert "emails Ready Fresh" in " ".join(shop.kubectl("get", "pgqrsworkers").split())

    # Its code and its template have no trace of pgqrs but the label; what it needs came with the sidecar.
    template = shop.get("deployment", "emails")["spec"]["template"]
    assert "PGQRS" not in str(template)
    assert "pgqrs" not in template["spec"]["containers"][0]["name"]

    shop.kubectl("delete", "deployment", "emails", "--timeout=60s")
    eventually("its resource is gone", lambda: not shop.items("pgqrsworkers"), within=30)
    assert shop.query("SELECT status, stop_reason FROM pgqrs_workers") == "stopped|process ended"


@pytest.mark.parametrize("shell", [IGNORES_SIGTERM, DIES_OF_SIGTERM], ids=["ignores SIGTERM", "dies of SIGTERM"])
def test_a_deleted_pod_finishes_what_it_holds_and_takes_no_more(shell: str, shop: Shop) -> None:
    shop.ready_queue()
    # More work than the pod could do in its grace period: a pod that went on would be killed in the middle of it.
    shop.deploy(replicas=2, shell=shell, drain=10, SEND_SECONDS="2", CONCURRENCY="2")
    shop.send(40)
    eventually("both pods are at work", lambda: shop.in_progress() == 4, within=20)
    pod = shop.pod()
    shop.kubectl("delete", "pod", pod, "--wait=false")
    eventually("the pod is gone", lambda: not shop.get("pod", pod), within=40)
    began = f"SELECT count(*) FROM emails_sent WHERE pod = '{pod}'"
    ended = f"{began} AND ended_at IS NOT NULL"
    assert shop.number(began) == shop.number(ended) > 0
    assert shop.query(f"SELECT stop_reason FROM pgqrs_workers WHERE pod_name = '{pod}'") == "process ended"
    shop.wait_handled(40, within=60)
    assert shop.redelivered() == 0


def test_a_rollout_redelivers_nothing(shop: Shop) -> None:
    shop.ready_queue()
    # Work for longer than the roll-out takes, also on a slow machine.
    shop.deploy(replicas=2, drain=10, SEND_SECONDS="2")
    shop.send(200)
    eventually("both pods are at work", lambda: shop.in_progress() >= 6, within=20)
    shop.kubectl("rollout", "restart", "deployment/emails")
    shop.kubectl("rollout", "status", "deployment/emails", "--timeout=90s", timeout=100)
    assert shop.number("SELECT count(*) FROM pgqrs_messages WHERE archived_at IS NULL") > 0
    shop.wait_handled(200, within=120)
    assert shop.redelivered() == 0


def test_the_messages_of_a_killed_process_are_in_other_hands_within_5_seconds(shop: Shop) -> None:
    shop.ready_queue(leaseDuration="10m")
    shop.deploy(replicas=2, shell=IGNORES_SIGTERM, SEND_SECONDS="1", CONCURRENCY="2")
    shop.send(60)
    eventually("both pods are at work", lambda: shop.in_progress() == 4, within=20)
    victim = shop.pod()
    shop.kill_app(victim)
    again = eventually(
        "its messages are delivered again", lambda: shop.query(_AGAIN) if shop.redelivered() else "", within=20
    )
    seconds, reason = again.split("|")
    assert float(seconds) < 5
    # The operator may have learnt by now how the container ended.
    assert reason.startswith("process died")
    shop.wait_handled(60, within=90)
    # Two were being handled; at most two more were done and not archived yet.
    assert shop.redelivered() <= 4


_AGAIN = """
SELECT max(extract(epoch FROM again.started_at - w.shutdown_at)), w.stop_reason
FROM (SELECT started_at, lag(worker_id) OVER (PARTITION BY message_id ORDER BY id) AS before FROM emails_sent) again
JOIN pgqrs_workers w ON w.id = again.before
GROUP BY w.stop_reason
"""


def test_a_pod_that_is_gone_without_a_word_holds_nothing_for_long(shop: Shop) -> None:
    shop.ready_queue(leaseDuration="10m")
    shop.deploy(shell=IGNORES_SIGTERM, SEND_SECONDS="30", CONCURRENCY="2")
    shop.send(2)
    eventually("the pod is at work", lambda: shop.in_progress() == 2, within=20)
    pod = shop.pod()
    # Nobody drains: the API server forgets the pod at once, and its sidecar is killed while it would.
    shop.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
    stopped = f"SELECT count(*) FROM pgqrs_workers WHERE pod_name = '{pod}' AND status = 'stopped'"
    eventually("its workers are stopped", lambda: shop.number(stopped), within=10)
    eventually("its messages are delivered again", lambda: shop.redelivered() == 2, within=20)


def test_a_suspended_worker_gets_no_message_until_it_is_resumed(shop: Shop) -> None:
    shop.ready_queue()
    shop.deploy(SEND_SECONDS="1", CONCURRENCY="2")
    pod = shop.pod()
    shop.send(30)
    eventually("the pod is at work", lambda: shop.in_progress() == 2, within=20)
    shop.kubectl("patch", "pgqrsworker", pod, "--type=merge", "-p", '{"spec":{"state":"Suspended"}}')
    shop.reason("Suspended", kind="pgqrsworker", name=pod, within=20)
    assert shop.query("SELECT status FROM pgqrs_workers WHERE container = 'app'") == "suspended"
    assert shop.in_progress() == 0
    done = shop.number("SELECT count(*) FROM emails_sent")
    assert done < 30

    # Longer than every poll of the consumer: what would be delivered would have been.
    shop.send(2)
    shop.query("SELECT pg_sleep(2)")
    assert shop.number("SELECT count(*) FROM emails_sent") == done

    shop.kubectl("patch", "pgqrsworker", pod, "--type=merge", "-p", '{"spec":{"state":null}}')
    shop.wait_handled(32, within=60)
    assert shop.redelivered() == 0


def test_a_paused_queue_serves_nobody(shop: Shop) -> None:
    shop.ready_queue(paused=True)
    shop.deploy(SEND_SECONDS="0")
    shop.send(3)
    shop.query("SELECT pg_sleep(2)")
    assert shop.number("SELECT count(*) FROM pgqrs_messages WHERE read_ct > 0") == 0
    shop.declare(paused=False)
    shop.wait_handled(3, within=20)


def test_the_password_stands_nowhere(shop: Shop) -> None:
    shop.ready_queue()
    shop.deploy(SEND_SECONDS="0")
    shop.send(3)
    shop.wait_handled(3, within=20)
    silent = shop.dsn.replace("5432", "5433")
    shop.set_secret({"dsn": silent})
    shop.reason("DatabaseUnavailable")
    said = shop.everything_said()
    # Of each part its numbers too, and what the leader says of this database.
    database = f'{{database="{silent.rpartition("@")[2]}"}}'
    for told in (
        *(f"pgqrs_operator_database_up{database} 0.0", "pgqrs_injector_requests_total", "pgqrs_sidecar_"),
        *(shop.namespace, "DatabaseUnavailable"),
    ):
        assert told in said
    assert shop.password not in said


def test_an_unknown_queue_is_refused_with_the_one_that_was_meant(shop: Shop) -> None:
    shop.ready_queue()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"pgqrs.io/queue": "email"}},
        "spec": {"containers": [{"name": "app", "image": "example.test/app:1"}]},
    }
    with pytest.raises(Exception, match="Did you mean emails"):
        shop.apply(pod)


def test_a_labelled_pod_that_no_injector_met_is_reported(shop: Shop) -> None:
    shop.ready_queue()
    # The release's own namespace is left alone, as every namespace is while no injector answers.
    container = {"name": "app", "image": EXAMPLE_IMAGE, "command": ["sleep", "60"]}
    metadata = {"name": shop.namespace, "namespace": SYSTEM, "labels": {"pgqrs.io/queue": "emails"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    kubectl = shop.installation.cluster.kubectl
    kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    try:
        about = f"involvedObject.name={shop.namespace},reason=NotInjected"
        events = ("-n", SYSTEM, "get", "events", "--field-selector", about, "-o=jsonpath={.items[*].message}")
        assert "no sidecar" in eventually("an event tells of it", lambda: kubectl(*events), within=20)
    finally:
        kubectl("-n", SYSTEM, "delete", "pod", shop.namespace, "--wait=false", "--grace-period=1")
