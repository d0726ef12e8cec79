"""The end of an installation: nothing of ours keeps anything from disappearing."""

from __future__ import annotations

import pytest

from tests.cluster.shop import Shop
from tests.support.installation import VALUES

pytestmark = pytest.mark.timeout(400)


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
