"""The injector's process with real TLS and real HTTP; only the Kubernetes API is a stand-in that answers as told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from pgqrs_operator import certificates
from pgqrs_operator.certificates import Certificate
from pgqrs_operator.injector import server
from pgqrs_operator.injector.certificate import CertificateError, ServedCertificate
from pgqrs_operator.injector.errors import ConfigurationError
from pgqrs_operator.injector.settings import Injection, Settings
from tests.support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "release-injector.system.svc"
QUEUE = "/apis/pgqrs.io/v1alpha1/namespaces/shop/pgqrsqueues"
SECRET = "/api/v1/namespaces/system/secrets/release-webhook-certificate"
NOT_FOUND = (404, {"kind": "Status", "apiVersion": "v1", "code": 404})
SETTINGS = Settings(
    namespace="system", secret_name="release-webhook-certificate", injection=Injection(image="example.test/sidecar:1")
)


def issued() -> Certificate:
    return certificates.issue(HOST, now=datetime.now(UTC))


def secret(certificate: Certificate | None) -> tuple[int, dict[str, Any]]:
    body: dict[str, Any] = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release-webhook-certificate"}}
    if certificate is not None:
        body["data"] = {
            "tls.crt": base64.b64encode(certificate.leaf).decode(),
            "tls.key": base64.b64encode(certificate.key).decode(),
        }
    return 200, body


@dataclass
class StandIn:
    """Answers each address with a status and a body; an address that hangs never answers."""

    answers: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.Response:
        if request.path in self.hangs:
            await asyncio.Event().wait()
        status, body = self.answers.get(request.path, NOT_FOUND)
        return web.json_response(body, status=status)


@dataclass
class Running:
    """An injector that runs, and what it asks."""

    api: StandIn
    webhook: str
    health: str
    task: asyncio.Task[int]

    async def mutate(self, authorities: bytes, body: bytes) -> tuple[int, str]:
        context = ssl.create_default_context(cadata=authorities.decode())
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.webhook, data=io.BytesIO(body), ssl=context, server_hostname=HOST) as response,
        ):
            return response.status, await response.text()

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.health + path) as response:
            return response.status, await response.text()

    async def becomes(self, path: str, status: int) -> None:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    if (await self.get(path))[0] == status:
                        return
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(api: StandIn) -> AsyncIterator[Running]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    webhook, health = free_port(), free_port()
    async with ApiClient(configuration=Configuration(host=f"http://127.0.0.1:{port}")) as client:
        task = asyncio.create_task(
            server.serve(SETTINGS, client, webhook_port=webhook, health_port=health, farewell=0.2, later=0.05)
        )
        try:
            yield Running(api, f"https://127.0.0.1:{webhook}/mutate", f"http://127.0.0.1:{health}", task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await runner.cleanup()


def review(**labels: str) -> bytes:
    request = {
        "uid": "u-1",
        "kind": {"kind": "Pod"},
        "operation": "CREATE",
        "namespace": "shop",
        "object": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app"}]}},
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


EMAILS = review(**{"pgqrs.io/queue": "emails"})


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
    queue = {"metadata": {"name": "emails"}, "spec": {}}
    api = StandIn({SECRET: secret(certificate), f"{QUEUE}/emails": (200, queue), QUEUE: (200, {"items": [queue]})})
    async with running(api) as injector:
        await injector.becomes("/readyz", 200)
        status, body = await injector.mutate(certificate.authorities, EMAILS)
        assert status == 200
        assert json.loads(body)["response"]["patchType"] == "JSONPatch"
        for name in ("email", ""):
            status, body = await injector.mutate(certificate.authorities, review(**{"pgqrs.io/queue": name}))
            assert status == 200
            assert "emails" in json.loads(body)["response"]["status"]["message"]
        assert (await injector.mutate(certificate.authorities, b"nonsense"))[0] == 400
        assert (await injector.mutate(certificate.authorities, b"x" * (5 * 1024 * 1024)))[0] == 413
        _, metrics = await injector.get("/metrics")
        for result, count in (("injected", 1), ("refused", 2), ("malformed", 1), ("failed", 0)):
            assert f'{{result="{result}"}} {count}\n' in metrics


@pytest.mark.parametrize("trouble", ["hangs", "forbidden"])
async def test_a_queue_that_cannot_be_looked_up_is_no_refusal(trouble: str) -> None:
    certificate = issued()
    api = StandIn(
        {SECRET: secret(certificate), f"{QUEUE}/emails": (403, {"kind": "Status", "message": "secret words"})}
    )
    if trouble == "hangs":
        api.hangs.add(f"{QUEUE}/emails")
    async with running(api) as injector:
        await injector.becomes("/readyz", 200)
        async with asyncio.timeout(4):
            status, text = await injector.mutate(certificate.authorities, EMAILS)
        assert status == 500
        assert "shop/emails could not be looked up" in text
        assert "secret words" not in text


async def test_a_new_certificate_is_served_without_a_restart_and_a_bad_one_is_not() -> None:
    first, second = issued(), issued()
    api = StandIn({SECRET: secret(first), f"{QUEUE}/emails": (200, {"metadata": {"name": "emails"}})})
    async with running(api) as injector:
        await injector.becomes("/readyz", 200)
        # The key of another certificate; it must not spoil what is served.
        api.answers[SECRET] = secret(Certificate(authorities=b"", leaf=second.leaf, key=first.key))
        await asyncio.sleep(0.3)
        assert (await injector.mutate(first.authorities, EMAILS))[0] == 200
        api.answers[SECRET] = secret(second)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectorCertificateError):
                    status, _ = await injector.mutate(second.authorities, EMAILS)
                    break
                await asyncio.sleep(0.02)
        assert status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await injector.mutate(first.authorities, EMAILS)


async def test_at_its_end_it_is_not_ready_but_still_answers() -> None:
    certificate = issued()
    api = StandIn({SECRET: secret(certificate), f"{QUEUE}/emails": (200, {"metadata": {"name": "emails"}})})
    async with running(api) as injector:
        await injector.becomes("/readyz", 200)
        os.kill(os.getpid(), signal.SIGTERM)
        await injector.becomes("/readyz", 503)
        assert (await injector.mutate(certificate.authorities, EMAILS))[0] == 200
        assert await asyncio.wait_for(injector.task, 10) == 0


def test_a_certificate_without_its_key_is_not_loaded() -> None:
    served = ServedCertificate()
    with pytest.raises(CertificateError):
        served.load(issued().leaf, issued().key)
    with pytest.raises(CertificateError):
        served.load(b"no certificate", b"no key")
    assert not served.loaded.is_set()


def test_a_certificate_is_due_before_its_end_and_when_it_does_not_fit() -> None:
    now = datetime.now(UTC)
    certificate = certificates.issue(HOST, now=now)
    assert not certificate.due(HOST, now=now)
    assert certificate.due("other.system.svc", now=now)
    assert not certificate.due(HOST, now=now + certificates.LIFETIME - certificates.RENEW_BEFORE - timedelta(hours=1))
    assert certificate.due(HOST, now=now + certificates.LIFETIME - certificates.RENEW_BEFORE + timedelta(hours=1))
    other = issued()
    assert Certificate(authorities=other.authorities, leaf=certificate.leaf, key=certificate.key).due(HOST, now=now)
    assert Certificate(authorities=certificate.authorities, leaf=certificate.leaf, key=other.key).due(HOST, now=now)
    assert Certificate(authorities=b"", leaf=b"", key=b"").due(HOST, now=now)


def test_the_authority_before_stays_trusted_but_not_the_one_before_that() -> None:
    now = datetime.now(UTC)
    first = certificates.issue(HOST, now=now)
    second = certificates.issue(HOST, now=now, previous=first)
    third = certificates.issue(HOST, now=now, previous=second)
    assert second.authorities.endswith(first.authorities)
    assert third.authorities.count(b"BEGIN CERTIFICATE") == 2
    assert first.authorities not in third.authorities
    late = certificates.issue(HOST, now=now + certificates.LIFETIME, previous=third)
    assert late.authorities.count(b"BEGIN CERTIFICATE") == 1


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
    }
    assert Settings.from_env({**ENVIRONMENT, **more}).injection == Injection(
        image="i:1", cluster="west", drain_seconds=60, raise_grace_period=False, pull_policy="Always"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGQRS_RELEASE", ""),
        ("PGQRS_DRAIN_SECONDS", "0"),
        ("PGQRS_RAISE_GRACE_PERIOD", "yes"),
        ("PGQRS_SIDECAR_PULL_POLICY", "Sometimes"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env({**ENVIRONMENT, name: value})
    assert server.run(["--help"]) == 2
    assert "no arguments" in capsys.readouterr().err
