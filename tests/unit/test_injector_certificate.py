"""The webhook's certificate: who keeps it renews it in time, and who serves it takes up each new one."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from pgqrs_operator import certificates
from pgqrs_operator.certificates import TERMS, Certificate, CertificateKeeper, Terms
from pgqrs_operator.injector.certificate import CertificateError, ServedCertificate
from tests.support.webhook import (
    EMAILS_QUEUE,
    HOST,
    QUEUE,
    SECRET,
    WEBHOOK,
    StandIn,
    about,
    issued,
    running,
    secret,
    webhook_configuration,
)

EMAILS = about("emails")


async def test_it_is_renewed_before_its_end_and_no_request_meets_a_certificate_that_it_distrusts() -> None:
    # Renewed 1 s after it was made, 11 s before its end.
    terms = Terms(lifetime=timedelta(seconds=12), renew_before=timedelta(seconds=11), interval=0.1, notice=1.0)
    api = StandIn({SECRET: secret(None), WEBHOOK: webhook_configuration(), QUEUE: (200, EMAILS_QUEUE)})
    async with running(api) as injector:
        keeper = CertificateKeeper(injector.client, namespace="system", release="release", terms=terms)
        keeping = asyncio.create_task(keeper.run())
        try:
            await injector.becomes("/readyz", 200)
            expiries: set[str] = set()
            async with asyncio.timeout(60):
                while len(expiries) < 4:
                    # An API server hears of a change a little later.
                    trusted = api.authorities()
                    await asyncio.sleep(0.2)
                    assert (await injector.mutate(trusted, EMAILS))[0] == 200
                    _, metrics = await injector.get("/metrics")
                    expiries.add(metrics.rsplit("expiry_timestamp_seconds ", 1)[1])
            # Four certificates, and two authorities at most are trusted at a time.
            assert trusted.count(b"BEGIN CERTIFICATE") == 2
            assert not keeping.done()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def test_what_somebody_changed_by_hand_comes_back() -> None:
    api = StandIn({SECRET: secret(None), WEBHOOK: webhook_configuration(), QUEUE: (200, EMAILS_QUEUE)})
    async with running(api) as injector:
        keeper = CertificateKeeper(injector.client, namespace="system", release="release")
        await keeper.ensure()
        await injector.becomes("/readyz", 200)
        kept, bundle = api.answers[SECRET], api.authorities()
        api.answers[WEBHOOK] = webhook_configuration()
        await keeper.ensure()
        assert (api.answers[SECRET], api.authorities()) == (kept, bundle)
        api.answers[SECRET] = secret(None)
        await keeper.ensure()
        assert api.answers[SECRET] != kept
        assert api.authorities() != bundle


async def test_a_new_certificate_is_served_without_a_restart_and_a_bad_one_is_not() -> None:
    first, second = issued(), issued()
    api = StandIn({SECRET: secret(first), QUEUE: (200, EMAILS_QUEUE)})
    async with running(api) as injector:
        await injector.becomes("/readyz", 200)
        # The key of another certificate; it must not spoil what is served.
        api.answers[SECRET] = secret(Certificate(authorities=b"", leaf=second.leaf, key=first.key))
        api.asked.clear()
        async with asyncio.timeout(10):
            while SECRET not in api.asked:
                await asyncio.sleep(0.02)
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
    renewal = now + TERMS.lifetime - TERMS.renew_before
    assert not certificate.due(HOST, now=renewal - timedelta(hours=1))
    assert certificate.due(HOST, now=renewal + timedelta(hours=1))
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
    late = certificates.issue(HOST, now=now + TERMS.lifetime, previous=third)
    assert late.authorities.count(b"BEGIN CERTIFICATE") == 1
