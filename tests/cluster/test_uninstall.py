"""The end of an installation: nothing of ours keeps anything from disappearing."""

from __future__ import annotations

import json

import pytest

from tests.cluster.shop import Shop, eventually
from tests.support.cluster.commands import run
from tests.support.installation import RELEASE, ROOT, SYSTEM, VALUES
from tests.support.markdown import blocks

pytestmark = pytest.mark.timeout(400)

_HEADING = "Operator first"
_KINDS = "pgqrsqueues,pgqrsworkers"
_CRDS = ("crd/pgqrsqueues.pgqrs.io", "crd/pgqrsworkers.pgqrs.io")
_LEFT = "pgqrsqueue.pgqrs.io/letters\n"


def test_kinds_that_were_deleted_and_come_back_are_looked_after_again(shop: Shop) -> None:
    shop.ready_queue(maxReads=7)
    shop.send(2)
    worker = {"queueRef": {"name": "emails"}, "hostname": "outside", "port": 1}
    shop.apply({"apiVersion": "pgqrs.io/v1alpha1", "kind": "PgqrsWorker", "metadata": {"name": "w"}, "spec": worker})
    shop.reason("WaitingForWorker", kind="pgqrsworker", name="w")
    row = "SELECT id, read_limit, owner IS NULL FROM pgqrs_queues"
    former = shop.query(row).removesuffix("|f")
    kubectl = shop.installation.cluster.kubectl
    kinds = json.loads(kubectl("get", *_CRDS, "-o", "json"))
    for kind in kinds["items"]:
        # As they were declared: their owner is the release.
        del kind["status"]
        kind["metadata"] = {key: kind["metadata"][key] for key in ("name", "labels", "annotations")}
    try:
        # Its resources go first, each when the operator lets it.
        kubectl("delete", *_CRDS, "--timeout=60s", timeout=70.0)
        assert shop.query(row) == f"{former}|t"
        assert shop.query("SELECT count(*) FROM pgqrs_messages") == "2"
        logs = ("-n", SYSTEM, "logs", "-lapp.kubernetes.io/component=operator", "--tail=-1")
        eventually("an operator misses them", lambda: "cluster not listed" in kubectl(*logs), within=60.0)
    finally:
        kubectl("create", "-f", "-", stdin=json.dumps(kinds))
        kubectl("wait", *_CRDS, "--for=condition=Established", "--timeout=30s")
    shop.declare(maxReads=7)
    shop.reason("InSync", within=180.0)
    assert shop.query(row) == f"{former}|f"
    shop.deploy(SEND_SECONDS="0")
    shop.wait_handled(2, within=30.0)
    # The process of either may have ended meanwhile.
    kubectl("-n", SYSTEM, "rollout", "status", f"deployment/{RELEASE}-operator", "--timeout=90s", timeout=100.0)


def test_an_uninstallation_leaves_no_finalizer_and_a_new_installation_goes_on(shop: Shop) -> None:
    shop.ready_queue()
    shop.deploy(SEND_SECONDS="0")
    name = shop.pod()
    shop.reason("Working", kind="pgqrsworker", name=name)
    installation = shop.installation
    installation.uninstall()
    try:
        for kind in ("pgqrsqueues", "pgqrsworkers"):
            assert all("finalizers" not in item["metadata"] for item in shop.items(kind))
        shop.kubectl("delete", "pgqrsworkers", "--all", "--timeout=20s")
        shop.kubectl("delete", "pgqrsqueues", "--all", "--timeout=20s")
        shop.kubectl("delete", "deployment", "emails", "--timeout=60s")
    finally:
        # The chart's own database went with it, and the new one has another password.
        installation.install(VALUES)
    fresh = Shop(installation, f"{shop.namespace}-again")
    fresh.create()
    try:
        fresh.ready_queue()
        fresh.deploy(SEND_SECONDS="0")
        fresh.send(1)
        fresh.wait_handled(1, within=20)
    finally:
        fresh.remove()


def test_what_is_left_without_an_operator_is_freed_by_the_line_of_the_page(shop: Shop) -> None:
    (line,) = (block.code for block in blocks(ROOT / "docs" / "uninstalling.md", "sh") if block.heading == _HEADING)
    shop.ready_queue()
    shop.ready_queue("letters")
    spec = {"queueRef": {"name": "emails"}, "hostname": "outside", "port": 1}
    shop.apply({"apiVersion": "pgqrs.io/v1alpha1", "kind": "PgqrsWorker", "metadata": {"name": "w"}, "spec": spec})
    shop.reason("WaitingForWorker", kind="pgqrsworker", name="w")
    installation = shop.installation
    installation.cluster.helm("uninstall", RELEASE, "-n", SYSTEM, "--no-hooks", "--wait", timeout=300.0)
    try:
        shop.kubectl("delete", "pgqrsqueue/emails", "pgqrsworker/w", "--wait=false")
        assert shop.get("pgqrsqueue", "emails")["metadata"]["finalizers"]
        assert shop.get("pgqrsworker", "w")["metadata"]["finalizers"]
        run(["sh", "-c", line], environment=installation.cluster.environment, timeout=120.0)
        eventually("what was deleted is gone", lambda: shop.kubectl("get", _KINDS, "-o=name") == _LEFT, within=10.0)
        assert "finalizers" not in shop.get("pgqrsqueue", "letters")["metadata"]
    finally:
        installation.install(VALUES)
