"""The injector's process with real TLS and real HTTP, and what its environment may say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqrs_injection.errors import ConfigurationError
from pgqrs_injection.settings import Injection
from pgqrs_injection.sidecar import SidecarDefaults
from pgqrs_operator.injector import server
from pgqrs_operator.injector.settings import Settings
from tests.support.webhook import EMAILS_QUEUE, QUEUE, QUEUES, SECRET, StandIn, about, issued, running, secret

EMAILS = about("emails")


async def test_it_is_ready_once_there_is_a_certificate() -> None:
    api = StandIn({SECRET: secret(None)})
    async with running(api) as injector:
        await injector.becomes("/healthz", 200)
        assert await injector.get("/readyz") == (503, "no certificate yet\n")
        certificate = issued()
        api.answers[SECRET] = secret(certificate)
        await injector.becomes("/readyz", 200)
        _, metrics = await injector.get("/metrics")
        expiry = float(metrics.rsplit("expiry_timestamp_seconds ", 1)[1])
        assert datetime.fromtimestamp(expiry, UTC) - datetime.now(UTC) > timedelta(days=89)


async def test_it_injects_and_refuses_and_counts() -> None:
    certificate = issued()
    queues: dict[str, tuple[int, dict[str, Any]]] = {
        QUEUE: (200, EMAILS_QUEUE),
        QUEUES: (200, {"items": [EMAILS_QUEUE]}),
    }
    api = StandIn({SECRET: secret(certificate), **queues})
    async with running(api) as injector:
        await injector.becomes("/readyz", 200)
        status, body = await injector.mutate(certificate.authorities, EMAILS)
        assert status == 200
        assert json.loads(body)["response"]["patchType"] == "JSONPatch"
        for name in ("email", ""):
            status, body = await injector.mutate(certificate.authorities, about(name))
            assert status == 200
            assert "emails" in json.loads(body)["response"]["status"]["message"]
        assert (await injector.mutate(certificate.authorities, b"nonsense"))[0] == 400
        _, metrics = await injector.get("/metrics")
        for result, count in (("injected", 1), ("refused", 2), ("malformed", 1), ("failed", 0)):
            assert f'{{result="{result}"}} {count}\n' in metrics


@pytest.mark.parametrize("trouble", ["hangs", "forbidden"])
async def test_a_queue_that_cannot_be_looked_up_is_no_refusal(trouble: str) -> None:
    certificate = issued()
    api = StandIn({SECRET: secret(certificate), QUEUE: (403, {"kind": "Status", "message": "secret words"})})
    if trouble == "hangs":
        api.hangs.add(QUEUE)
    async with running(api) as injector:
        await injector.becomes("/readyz", 200)
        async with asyncio.timeout(4):
            status, text = await injector.mutate(certificate.authorities, EMAILS)
        assert status == 500
        assert "shop/emails could not be looked up" in text
        assert "secret words" not in text


async def test_at_its_end_it_is_not_ready_but_still_answers() -> None:
    certificate = issued()
    api = StandIn({SECRET: secret(certificate), QUEUE: (200, EMAILS_QUEUE)})
    async with running(api) as injector:
        await injector.becomes("/readyz", 200)
        os.kill(os.getpid(), signal.SIGTERM)
        await injector.becomes("/readyz", 503)
        assert (await injector.mutate(certificate.authorities, EMAILS))[0] == 200
        assert await asyncio.wait_for(injector.task, 10) == 0


ENVIRONMENT = {"PGQRS_OPERATOR_NAMESPACE": "system", "PGQRS_RELEASE": "release", "PGQRS_SIDECAR_IMAGE": "i:1"}


def test_settings_are_read_from_the_environment() -> None:
    assert Settings.from_env(ENVIRONMENT) == Settings(
        namespace="system", secret_name="release-webhook-certificate", injection=Injection(image="i:1")
    )
    more = {
        "PGQRS_CLUSTER": "west",
        "PGQRS_DRAIN_SECONDS": "60",
        "PGQRS_RAISE_GRACE_PERIOD": "false",
        "PGQRS_SIDECAR_PULL_POLICY": "Always",
        "PGQRS_UNKNOWN_QUEUE": "Admit",
        "PGQRS_SIDECAR_DEFAULTS": '{"heartbeatSeconds": 7}',
    }
    settings = Settings.from_env({**ENVIRONMENT, **more})
    assert settings.admit_unknown_queue
    assert settings.injection == Injection(
        image="i:1",
        cluster="west",
        drain_seconds=60,
        raise_grace_period=False,
        pull_policy="Always",
        sidecar=SidecarDefaults(heartbeat_seconds=7),
    )


def test_all_sidecar_defaults_are_read() -> None:
    defaults = {
        "resources": {"requests": {"cpu": 1, "memory": "64Mi"}, "limits": {"memory": None}},
        "securityContext": {"runAsNonRoot": True, "runAsUser": None},
        "heartbeatSeconds": 30,
        "connectionMode": "shortLived",
        "startWithoutDatabase": True,
        "logLevel": "DEBUG",
    }
    found = Settings.from_env({**ENVIRONMENT, "PGQRS_SIDECAR_DEFAULTS": json.dumps(defaults)})
    assert found.injection.sidecar == SidecarDefaults(
        resources={"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {}},
        security_context={"runAsNonRoot": True},
        heartbeat_seconds=30,
        connection_mode="shortLived",
        start_without_database=True,
        log_level="DEBUG",
    )


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"heartbeatSeconds": 31}', "heartbeatSeconds is 31; allowed is a whole number of seconds from 1 to 30"),
        ('{"heartbeatSeconds": true}', "heartbeatSeconds is True"),
        ('{"connectionMode": "shortlived"}', "allowed is persistent or shortLived"),
        ('{"startWithoutDatabase": "yes"}', "startWithoutDatabase is 'yes'; allowed is true or false"),
        ('{"logLevel": "LOUD"}', "logLevel is 'LOUD'; allowed is DEBUG, INFO, WARNING or ERROR"),
        ('{"resource": {}}', "unknown field 'resource'; did you mean resources"),
        ('{"resources": {"limit": {}}}', "resources has an unknown field 'limit'; did you mean limits"),
        ('{"resources": {"limits": {"memory": "96 MB"}}}', "resources: limits: memory is '96 MB'"),
        ('{"resources": {"limits": {"memory": "1Mi"}, "requests": {"memory": "2Mi"}}}', "requests.memory is more than"),
        ('{"resources": 1}', "resources is no JSON object"),
        ('{"securityContext": {"runasuser": 1}}', "did you mean runAsUser"),
    ],
)
def test_a_wrong_sidecar_default_is_named(defaults: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({**ENVIRONMENT, "PGQRS_SIDECAR_DEFAULTS": defaults})
    assert str(caught.value).startswith("PGQRS_SIDECAR_DEFAULTS")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGQRS_RELEASE", ""),
        ("PGQRS_DRAIN_SECONDS", "0"),
        ("PGQRS_DRAIN_SECONDS", "86401"),
        ("PGQRS_RAISE_GRACE_PERIOD", "yes"),
        ("PGQRS_UNKNOWN_QUEUE", "admit"),
        ("PGQRS_SIDECAR_PULL_POLICY", "Sometimes"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env({**ENVIRONMENT, name: value})
    assert server.run(["--help"]) == 2
    assert "no arguments" in capsys.readouterr().err
