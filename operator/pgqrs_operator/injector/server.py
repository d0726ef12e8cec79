"""The process of the injector: the webhook over TLS, and its health over plain HTTP.

It answers the webhook as soon as there is a certificate. At its end it goes on answering for some seconds in which the
Service forgets it, so that a rollout loses no request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING

from aiohttp import web

from pgqrs_injection.errors import ConfigurationError
from pgqrs_operator.connection import connect
from pgqrs_operator.injector import reviews
from pgqrs_operator.injector.certificate import CertificateReader, ServedCertificate
from pgqrs_operator.injector.errors import LookupFailedError, NotAReviewError
from pgqrs_operator.injector.listening import Listener
from pgqrs_operator.injector.queues import KubernetesQueues, QueueDirectory
from pgqrs_operator.injector.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubernetes.aio.client.api_client import ApiClient

_log = logging.getLogger(__name__)

WEBHOOK_PORT = 8443
HEALTH_PORT = 8080
#: etcd takes no object of more than 1.5 MiB.
_MOST_BYTES = 3 * 1024 * 1024
#: Of a whole request; the webhook's own limit is 5 s.
_DEADLINE_SECONDS = 4.0
#: How long a connection to the health port may be idle.
_KEEP_SECONDS = 60.0
#: How much of a text that a request brought is logged.
_LOGGED = 500
_FIRST_CERTIFICATE_SECONDS = 1.0
_LATER_CERTIFICATE_SECONDS = 30.0
#: How long a Service may still send requests to a pod that ends.
_FAREWELL_SECONDS = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Webhook:
    """The two web applications, and what they count."""

    def __init__(self, queues: QueueDirectory, settings: Settings, certificate: ServedCertificate) -> None:
        self._queues = queues
        self._settings = settings
        self._certificate = certificate
        self._results: Counter[str] = Counter()
        #: Set once the webhook listens, for which there must be a certificate.
        self.answers = asyncio.Event()
        #: Set when the process ends soon: it is not ready any more, yet still answers.
        self.ending = asyncio.Event()

    def webhook(self) -> web.Application:
        """What listens with TLS."""
        application = web.Application(client_max_size=_MOST_BYTES)
        application.router.add_post("/mutate", self._mutate)
        return application

    def health(self) -> web.Application:
        """What listens without TLS."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        return application

    async def _mutate(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            self._results["malformed"] += 1
            return web.Response(status=415, text="An AdmissionReview comes as application/json.\n")
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                review = reviews.parse(await request.read())
                verdict = await reviews.decide(
                    review,
                    self._queues,
                    self._settings.injection,
                    admit_unknown_queue=self._settings.admit_unknown_queue,
                )
        except web.HTTPRequestEntityTooLarge:
            self._results["malformed"] += 1
            raise
        except NotAReviewError as error:
            self._results["malformed"] += 1
            _log.warning("request not understood", extra={"error": str(error), "cause": type(error.__cause__).__name__})
            return web.Response(status=400, text=f"{error}\n")
        except (LookupFailedError, TimeoutError) as error:
            self._results["failed"] += 1
            text = str(error) or "The request took too long."
            _log.warning("pod not decided", extra={"error": text})
            return web.Response(status=500, text=f"{text}\n")
        self._results[verdict.result] += 1
        _log.info(
            "pod decided",
            extra={
                "result": verdict.result,
                "namespace": review.namespace,
                "pod": _pod_name(review),
                "reason": verdict.reason[:_LOGGED],
            },
        )
        return web.Response(body=json.dumps(verdict.body).encode(), content_type="application/json")

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self.ending.is_set():
            return web.Response(status=503, text="ending\n")
        if not self.answers.is_set():
            return web.Response(status=503, text="no certificate yet\n")
        return web.Response(text="ok\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        lines = ["# TYPE pgqrs_injector_requests_total counter"]
        lines += [
            f'pgqrs_injector_requests_total{{result="{result}"}} {self._results[result]}'
            for result in (*reviews.RESULTS, "failed", "malformed")
        ]
        lines += [
            "# TYPE pgqrs_injector_certificate_expiry_timestamp_seconds gauge",
            f"pgqrs_injector_certificate_expiry_timestamp_seconds {self._certificate.expires:.0f}",
        ]
        return web.Response(text="\n".join(lines) + "\n", headers={"Content-Type": "text/plain; version=0.0.4"})


def _pod_name(review: reviews.Request) -> str:
    metadata = (review.pod or {}).get("metadata") or {}
    return str(metadata.get("name") or f"{metadata.get('generateName', '')}*")[:_LOGGED]


async def serve(
    settings: Settings,
    client: ApiClient,
    *,
    webhook_port: int = WEBHOOK_PORT,
    health_port: int = HEALTH_PORT,
    farewell: float = _FAREWELL_SECONDS,
    later: float = _LATER_CERTIFICATE_SECONDS,
) -> int:
    """Answer until SIGTERM or SIGINT; give the exit status of the process.

    Args:
        settings: The configuration.
        client: The connection to the Kubernetes API; it stays open.
        webhook_port: Where the webhook listens.
        health_port: Where the health is told.
        farewell: How long to go on answering after the signal, in seconds.
        later: The pause between two readings of the certificate's Secret, in seconds.
    """
    served = ServedCertificate()
    webhook = Webhook(KubernetesQueues(client), settings, served)
    reader = CertificateReader(
        client,
        served,
        namespace=settings.namespace,
        secret=settings.secret_name,
        first=_FIRST_CERTIFICATE_SECONDS,
        later=later,
    )
    health = web.AppRunner(webhook.health(), access_log=None, keepalive_timeout=_KEEP_SECONDS)
    mutating = Listener(webhook.webhook(), served.context)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, webhook.ending.set)
    reading = asyncio.create_task(reader.run(), name="certificate")
    ended = asyncio.create_task(webhook.ending.wait(), name="ending")
    loaded = asyncio.create_task(served.loaded.wait(), name="certificate loaded")
    try:
        await health.setup()
        await web.TCPSite(health, None, health_port).start()
        await asyncio.wait({reading, ended, loaded}, return_when=asyncio.FIRST_COMPLETED)
        if loaded.done():
            await mutating.start(webhook_port)
            webhook.answers.set()
            _log.info("webhook answers", extra={"port": webhook_port})
            await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            # It is meant to run for ever; without it the certificate would run out unnoticed.
            _log.critical("the certificate's reader has ended", exc_info=reading.exception())
            return 1
        if loaded.done():
            await asyncio.sleep(farewell)
    finally:
        tasks = (reading, ended, loaded)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await mutating.aclose()
        await health.cleanup()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    return 0


async def _main(settings: Settings) -> int:
    async with await connect() as client:
        return await serve(settings, client)


def run(argv: Sequence[str]) -> int:
    """Run the command `pgqrs-operator inject`; give the exit status."""
    if argv:
        print(f"pgqrs-operator inject takes no arguments, got {' '.join(argv)!r}.", file=sys.stderr)  # noqa: T201
        return 2
    try:
        settings = Settings.from_env(os.environ)
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the log is not set up, and a person reads this
        return 2
    return asyncio.run(_main(settings))
