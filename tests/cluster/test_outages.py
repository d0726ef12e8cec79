"""Parts that fail while others work: the operator is away, the database crashes."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import IGNORES_SIGTERM, eventually
from tests.support.installation import RELEASE, SYSTEM

if TYPE_CHECKING:
    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)


def _works(shop: Shop) -> set[str]:
    """Name the pods that have a worker that is ready."""
    return set(shop.query("SELECT pod_name FROM pgqrs_workers WHERE status = 'ready'").split())


def test_work_goes_on_without_the_operator_which_catches_up(shop: Shop) -> None:
    shop.ready_queue(leaseDuration="10m")
    shop.deploy(replicas=2, shell=IGNORES_SIGTERM, SEND_SECONDS="0.5")
    shop.installation.scale("operator", 0)
    try:
        shop.send(20)
        shop.wait_handled(20, within=30)
        # A killed process is its sidecar's business, not the operator's.
        shop.send(100)
        eventually("both pods are at work", lambda: shop.in_progress() >= 6, within=20)
        shop.kill_app(shop.pod())
        shop.wait_handled(120, within=60)
        shop.kubectl("patch", "pgqrsqueue", "emails", "--type=merge", "-p", '{"spec":{"maxReads":7}}')
        gone, before = shop.pod(), _works(shop)
        shop.kubectl("delete", "pod", gone, "--wait=false")
        eventually("the pod is gone", lambda: not shop.get("pod", gone), within=60)
        eventually("the pod in its place works", lambda: _works(shop) - before, within=60)
    finally:
        shop.installation.scale("operator", 2)
    eventually("the row follows", lambda: shop.query("SELECT read_limit FROM pgqrs_queues") == "7", within=30)
    eventually("its resource is gone", lambda: not shop.get("pgqrsworker", gone), within=60)


def _restarted(shop: Shop) -> bool:
    label = "app.kubernetes.io/component=development-postgres"
    found = json.loads(shop.installation.cluster.kubectl("-n", SYSTEM, "get", "pods", "-l", label, "-o", "json"))
    (status,) = found["items"][0]["status"]["containerStatuses"]
    return bool(status["restartCount"] and status["ready"])


def test_a_database_that_crashes_under_load_loses_nothing(shop: Shop) -> None:
    shop.ready_queue(leaseDuration="5s")
    shop.deploy(replicas=2, shell=IGNORES_SIGTERM, SEND_SECONDS="0.5")
    shop.send(120)
    eventually("both pods are at work", lambda: shop.in_progress() >= 6, within=20)
    # The server is PID 1 of its container: it ends as in a crash, and the kubelet starts it again on the same data.
    database = f"deploy/{RELEASE}-development-postgres"
    shop.installation.cluster.kubectl("-n", SYSTEM, "exec", database, "--", "sh", "-c", "kill -QUIT 1")
    eventually("the server runs again", lambda: _restarted(shop), within=60)
    shop.wait_handled(120, within=90)
    assert shop.number("SELECT count(*) FROM pgqrs_messages WHERE dead_reason IS NOT NULL") == 0
    shop.reason("InSync", within=30)
    # Whatever was tried meanwhile, each resource has one Event of its end, and one of the outage if that was seen.
    told = Counter(
        (event["involvedObject"]["uid"], event["reason"])
        for event in shop.items("events")
        if event["source"].get("component") == "pgqrs-operator" and event["involvedObject"]["kind"] == "PgqrsQueue"
    )
    assert set(told.values()) == {1}
