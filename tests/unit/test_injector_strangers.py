"""Requests that do not come from an API server do no harm: they are refused, end by themselves, and learn nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.webhook import (
    EMAILS_QUEUE,
    HOST,
    QUEUE,
    QUEUES,
    SECRET,
    Running,
    StandIn,
    about,
    issued,
    review,
    running,
    secret,
    trusting,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pgqrs_operator.certificates import Certificate

EMAILS = about("emails")
CANARY = "canary-of-a-stranger"
JSON = "application/json"


@contextlib.asynccontextmanager
async def injector() -> AsyncIterator[tuple[Running, Certificate]]:
    """An injector that is ready."""
    certificate = issued()
    answers = {SECRET: secret(certificate), QUEUE: (200, EMAILS_QUEUE), QUEUES: (200, {"items": [EMAILS_QUEUE]})}
    async with running(StandIn(answers)) as started:
        await started.becomes("/readyz", 200)
        yield started, certificate


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (CANARY.encode(), {}, 400),
        (b"\xff\xfe\x00", {}, 400),
        (json.dumps({"kind": CANARY}).encode(), {}, 400),
        (b'{"a":' * 100_000, {}, 400),
        (b'{"request":' + b"[" * 100_000, {}, 400),
        (EMAILS.replace(b"admission.k8s.io/v1", b"admission.k8s.io/v2"), {}, 400),
        (about("emails", namespace="../system"), {}, 400),
        (about("emails", namespace=""), {}, 400),
        (EMAILS, {"Content-Type": "text/plain"}, 415),
        (EMAILS, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (gzip.compress(EMAILS), {"Content-Encoding": "gzip"}, 400),
        (b"x" * (4 * 1024 * 1024), {}, 413),
        (gzip.compress(b" " * (16 * 1024 * 1024)), {"Content-Encoding": "gzip"}, 400),
    ],
)
async def test_what_is_no_review_is_refused_and_tells_nothing(
    body: bytes, headers: dict[str, str], status: int
) -> None:
    async with injector() as (started, certificate):
        found, text = await started.mutate(certificate.authorities, body, headers=headers)
        assert found == status
        assert len(text) < 200
        assert CANARY not in text
        # It goes on, and has counted.
        assert (await started.mutate(certificate.authorities, EMAILS))[0] == 200
        _, metrics = await started.get("/metrics")
        assert '{result="malformed"} 1\n' in metrics
        assert started.api.asked == {SECRET, QUEUE}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/mutate", 405), ("POST", "/", 404), ("PUT", "/x", 404)]
)
async def test_there_is_one_address_and_one_method(method: str, path: str, status: int) -> None:
    async with injector() as (started, certificate):
        response, _ = await started.ask(certificate.authorities, EMAILS, method=method, path=path)
        assert response.status == status
        # Without an answer of ours, too, no connection is kept.
        assert response.headers["Connection"] == "close"


async def test_a_connection_is_for_one_request() -> None:
    async with injector() as (started, certificate):
        response, _ = await started.ask(certificate.authorities, EMAILS)
        assert (response.status, response.headers["Connection"]) == (200, "close")


@pytest.mark.parametrize(
    "label",
    [
        "../../../../../api/v1/namespaces/system/secrets/release-webhook-certificate",
        "..",
        ".",
        "",
        "emails/status",
        "%2e%2e",
        "emails?watch=true",
        "Emails",
        "e" * 100_000,
    ],
)
async def test_no_label_leads_a_request_elsewhere(label: str) -> None:
    async with injector() as (started, certificate):
        started.api.asked.clear()
        status, text = await started.mutate(certificate.authorities, about(label))
        assert status == 200
        response = json.loads(text)["response"]
        assert response["allowed"] is False
        assert "There is no PgqrsQueue" in response["status"]["message"]
        assert len(response["status"]["message"]) < 500
        assert started.api.asked <= {SECRET, QUEUES}


async def test_a_pod_without_the_label_is_nothing_to_look_up() -> None:
    async with injector() as (started, certificate):
        started.api.asked.clear()
        assert (await started.mutate(certificate.authorities, review()))[0] == 200
        assert started.api.asked <= {SECRET}


class Crowd:
    """Connections that want nothing, or never come to an end."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        self._ends: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        for _, writer in self._ends:
            writer.transport.abort()

    async def come(self, number: int, said: bytes, *, tls: bool = True) -> None:
        for _ in range(number):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1",
                self._port,
                ssl=self._context if tls else None,
                server_hostname=HOST if tls else None,
            )
            writer.write(said)
            await writer.drain()
            self._ends.append((reader, writer))

    async def gone(self) -> None:
        """Wait until the other side has ended every one."""
        for reader, _ in self._ends:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while await reader.read(4096):
                    pass


async def test_many_connections_that_want_nothing_keep_nobody_away_and_are_ended() -> None:
    head = f"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\n"
    async with injector() as (started, certificate), Crowd(started.port, trusting(certificate.authorities)) as crowd:
        await crowd.come(100, b"", tls=False)
        await crowd.come(20, b"\x16\x03\x01", tls=False)
        await crowd.come(50, b"")
        await crowd.come(30, head.encode())
        await crowd.come(20, f"{head}Content-Length: 1000\r\n\r\nx".encode())
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(started.mutate(certificate.authorities, EMAILS) for _ in range(20)))
            assert {status for status, _ in answers} == {200}
            await crowd.gone()
        assert (await started.mutate(certificate.authorities, EMAILS))[0] == 200
