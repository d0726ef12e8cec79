"""An injector's process with real TLS and real HTTP; only the Kubernetes API is a stand-in that answers as told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import io
import json
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from pgqrs_injection.settings import Injection
from pgqrs_operator import certificates
from pgqrs_operator.injector import server
from pgqrs_operator.injector.settings import Settings
from tests.support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pgqrs_operator.certificates import Certificate

HOST = "release-injector.system.svc"
QUEUES = "/apis/pgqrs.io/v1alpha1/namespaces/shop/pgqrsqueues"
QUEUE = f"{QUEUES}/emails"
SECRET = "/api/v1/namespaces/system/secrets/release-webhook-certificate"
WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/release-injector"
SETTINGS = Settings(
    namespace="system", secret_name="release-webhook-certificate", injection=Injection(image="example.test/sidecar:1")
)
EMAILS_QUEUE: dict[str, Any] = {"metadata": {"name": "emails"}, "spec": {}}
_NOT_FOUND = (404, {"kind": "Status", "apiVersion": "v1", "code": 404})


def issued() -> Certificate:
    """A certificate as the operator makes it."""
    return certificates.issue(HOST, now=datetime.now(UTC))


def secret(certificate: Certificate | None) -> tuple[int, dict[str, Any]]:
    """The answer with the certificate's Secret, empty without one."""
    body: dict[str, Any] = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release-webhook-certificate"}}
    if certificate is not None:
        body["data"] = {
            "tls.crt": base64.b64encode(certificate.leaf).decode(),
            "tls.key": base64.b64encode(certificate.key).decode(),
        }
    return 200, body


def webhook_configuration() -> tuple[int, dict[str, Any]]:
    """The answer with the webhook as the chart leaves it."""
    webhook = {
        "name": "injector.pgqrs.io",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"service": {"name": "release-injector", "namespace": "system"}},
    }
    body = {"kind": "MutatingWebhookConfiguration", "apiVersion": "admissionregistration.k8s.io/v1"}
    return 200, {**body, "metadata": {"name": "release-injector"}, "webhooks": [webhook]}


def review(*, namespace: str = "shop", **labels: str) -> bytes:
    """The question about a pod of one container."""
    request = {
        "uid": "u-1",
        "kind": {"kind": "Pod"},
        "operation": "CREATE",
        "namespace": namespace,
        "object": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app"}]}},
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def about(queue: str, **more: str) -> bytes:
    """The question about a pod with the label."""
    return review(**more, **{"pgqrs.io/queue": queue})


@dataclass
class StandIn:
    """Answers each address with a status and a body, and takes what is written; an address that hangs never answers."""

    answers: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)
    #: Every address that was asked.
    asked: set[str] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.Response:
        path = request.path
        self.asked.add(path)
        if path in self.hangs:
            await asyncio.Event().wait()
        status, body = self.answers.get(path, _NOT_FOUND)
        if request.method == "PUT":
            body = await request.json()
        elif request.method == "PATCH":
            body = _patched(body, json.loads(await request.read()))
        if request.method != "GET":
            self.answers[path] = status, body
        return web.json_response(body, status=status)

    def authorities(self) -> bytes:
        """What the webhook's `caBundle` says."""
        bundle: str = self.answers[WEBHOOK][1]["webhooks"][0]["clientConfig"].get("caBundle", "")
        return base64.b64decode(bundle)


def _patched(body: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    for operation in operations:
        *parents, last = operation["path"].split("/")[1:]
        place: Any = changed
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if operation["op"] == "test":
            assert place[last] == operation["value"]
        else:
            place[last] = operation["value"]
    return changed


@dataclass
class Running:
    """An injector that runs, and what it asks."""

    api: StandIn
    client: ApiClient
    port: int
    health: str
    task: asyncio.Task[int]

    async def mutate(
        self, authorities: bytes, body: bytes, *, headers: Mapping[str, str] | None = None, path: str = "/mutate"
    ) -> tuple[int, str]:
        """Ask as an API server does that trusts these authorities."""
        response, text = await self.ask(authorities, body, headers=headers, path=path)
        return response.status, text

    async def ask(
        self,
        authorities: bytes,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        path: str = "/mutate",
        method: str = "POST",
    ) -> tuple[aiohttp.ClientResponse, str]:
        """Give the whole response and its text."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method,
                f"https://127.0.0.1:{self.port}{path}",
                data=io.BytesIO(body),
                headers={"Content-Type": "application/json", **(headers or {})},
                ssl=trusting(authorities),
                server_hostname=HOST,
            ) as response,
        ):
            return response, await response.text()

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the health port."""
        async with aiohttp.ClientSession() as session, session.get(self.health + path) as response:
            return response.status, await response.text()

    async def becomes(self, path: str, status: int) -> None:
        """Wait until the health port answers so."""
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    if (await self.get(path))[0] == status:
                        return
                await asyncio.sleep(0.02)


def trusting(authorities: bytes) -> ssl.SSLContext:
    """What an API server connects with."""
    return ssl.create_default_context(cadata=authorities.decode())


@contextlib.asynccontextmanager
async def running(api: StandIn) -> AsyncIterator[Running]:
    """Run an injector."""
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
            server.serve(SETTINGS, client, webhook_port=webhook, health_port=health, farewell=1.0, later=0.05)
        )
        try:
            yield Running(api, client, webhook, f"http://127.0.0.1:{health}", task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await runner.cleanup()
