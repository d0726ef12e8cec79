"""The manifests for clusters without the injector, on a cluster where none answers."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from pgqrs_injection.names import TOKEN_PLACEHOLDER
from tests.cluster.shop import eventually
from tests.support.installation import EXAMPLE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)

_PLAIN = ROOT / "deploy" / "plain" / "emails"
#: As many as the Job sends.
_MESSAGES = 2000


@pytest.fixture
def uninjected(shop: Shop) -> Iterator[Shop]:
    """A namespace of a cluster in which no injector answers."""
    shop.installation.scale("injector", 0)
    yield shop
    shop.installation.scale("injector", 2)


def test_the_plain_manifests_send_and_handle_and_drain(uninjected: Shop) -> None:
    shop = uninjected
    shop.kubectl("apply", "--dry-run=server", "-f", str(_PLAIN))
    shop.kubectl("apply", "-f", str(EXAMPLE / "queue.yaml"))
    shop.kubectl("wait", "pgqrsqueue/emails", "--for=condition=Ready", "--timeout=30s")
    token = secrets.token_hex(24)
    deployment, job = (
        (_PLAIN / name).read_text().replace(TOKEN_PLACEHOLDER, token) for name in ("deployment.yaml", "job.yaml")
    )
    shop.kubectl("apply", "-f", "-", stdin=job)
    shop.kubectl("apply", "-f", "-", stdin=deployment)
    shop.kubectl("rollout", "status", "deployment/emails", "--timeout=90s", timeout=100.0)
    shop.kubectl("wait", "job/send-emails", "--for=condition=Complete", "--timeout=60s", timeout=70.0)
    # With the token that was put in, and nothing that anybody else added.
    for pod in shop.items("pods"):
        assert [one["name"] for one in pod["spec"]["initContainers"]] == ["pgqrs-sidecar"]
        assert token in str(pod["spec"]["initContainers"])

    gone = shop.pod()
    began = f"SELECT count(*) FROM emails_sent WHERE pod = '{gone}'"
    eventually("the pod is at work", lambda: shop.number(began), within=20)
    shop.kubectl("delete", "pod", gone, "--timeout=60s", timeout=70.0)
    shop.wait_handled(_MESSAGES, within=90.0)
    assert shop.number("SELECT count(*) FROM pgqrs_messages") == _MESSAGES
    assert shop.redelivered() == 0
    assert shop.query(f"SELECT DISTINCT status, stop_reason FROM pgqrs_workers WHERE pod_name = '{gone}'") == (
        "stopped|process ended"
    )
