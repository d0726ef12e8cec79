"""Keeps the webhook's certificate: the Secret that the injectors serve, and the `caBundle` that the API server trusts.

This is the one writer. A certificate comes with an authority of its own, whose key is thrown away, so nothing is kept
that could sign another one. At a renewal the API server is first told to trust the new authority beside the old one,
and some seconds later the Secret is written, so that no replica of the injector is ever distrusted. The key is never
logged.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from kubernetes.aio.client.api.admissionregistration_v1_api import AdmissionregistrationV1Api
from kubernetes.aio.client.api.core_v1_api import CoreV1Api
from kubernetes.aio.client.exceptions import ApiException

if TYPE_CHECKING:
    from kubernetes.aio.client.api_client import ApiClient
    from kubernetes.aio.client.models.v1_secret import V1Secret

_log = logging.getLogger(__name__)

#: For clocks that are behind.
_BACKDATED = timedelta(minutes=10)
#: For one round; also of the pause after a failure.
_DEADLINE_SECONDS = 10.0
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long a certificate is good, and when what is done about it."""

    lifetime: timedelta = timedelta(days=90)
    #: One with less than this left is renewed; time enough to notice that it is not.
    renew_before: timedelta = timedelta(days=30)
    #: Between two looks, in seconds.
    interval: float = 30.0
    #: How long every API server has to learn of a new authority before anything is served that it signed, in seconds.
    notice: float = 5.0


#: What holds for a release.
TERMS = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A leaf, its key and the authorities to trust, all PEM."""

    #: The authority of this leaf first, then the one before it while that is valid.
    authorities: bytes
    leaf: bytes
    key: bytes

    def due(self, host: str, *, now: datetime, terms: Terms = TERMS) -> bool:
        """Tell whether it must be replaced: soon at its end, for another host, or not usable at all."""
        try:
            leaf = x509.load_pem_x509_certificate(self.leaf)
            issuer = x509.load_pem_x509_certificates(self.authorities)[0]
            leaf.verify_directly_issued_by(issuer)
            key = serialization.load_pem_private_key(self.key, password=None)
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return True
        fits = key.public_key() == leaf.public_key() and host in names.get_values_for_type(x509.DNSName)
        return not fits or now > min(leaf.not_valid_after_utc, issuer.not_valid_after_utc) - terms.renew_before


def issue(host: str, *, now: datetime, previous: Certificate | None = None, terms: Terms = TERMS) -> Certificate:
    """Make a new authority and a leaf for this host; the previous authority stays trusted."""
    end = now + terms.lifetime
    authority_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pgqrs webhook authority")])
    authority = (
        _builder(name, name, authority_key.public_key(), (now, end))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    # The common name is a label of at most 64 characters; what counts is the alternative name.
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pgqrs webhook")])
    leaf = (
        _builder(subject, name, key.public_key(), (now, end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    return Certificate(
        authorities=_pem(authority) + _still_trusted(previous, now),
        leaf=_pem(leaf),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


class CertificateKeeper:
    """Looks again and again whether certificate and `caBundle` are as they must be, and makes them so."""

    def __init__(self, client: ApiClient, *, namespace: str, release: str, terms: Terms = TERMS) -> None:
        """Take where the Secret is and the name of the release, whose Service the certificate is for."""
        self._core = CoreV1Api(client)
        self._webhooks = AdmissionregistrationV1Api(client)
        self._namespace = namespace
        self._secret = f"{release}-webhook-certificate"
        self._webhook = f"{release}-injector"
        self._host = f"{release}-injector.{namespace}.svc"
        self._terms = terms

    async def run(self) -> None:
        """Keep them for ever; a failure is logged when it is a new one, and tried again."""
        trouble = ""
        while True:
            pause = self._terms.interval
            try:
                await self.ensure()
                trouble = ""
            except (ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
                pause = min(_RETRY_SECONDS, self._terms.interval)
                found = _describe(error)
                if found != trouble:
                    trouble = found
                    _log.warning("webhook certificate not kept", extra={"secret": self._secret, "error": found})
            await asyncio.sleep(pause)

    async def ensure(self) -> None:
        """Look once, and write what differs, within 10 s.

        Raises:
            ApiException: the API server refused; 404 means that the chart's Secret or webhook is missing, 409 that
                somebody else wrote at the same time.
            TimeoutError: it took too long.
        """
        async with asyncio.timeout(_DEADLINE_SECONDS):
            secret: V1Secret = await self._core.read_namespaced_secret(self._secret, self._namespace)
            kept, now = _read(secret), datetime.now(UTC)
            if kept is not None and not kept.due(self._host, now=now, terms=self._terms):
                await self._trust(kept.authorities)
                return
            made = issue(self._host, now=now, previous=kept, terms=self._terms)
            await self._trust(made.authorities)
            if kept is not None:
                await asyncio.sleep(self._terms.notice)
            secret.data = {
                **(secret.data or {}),
                "ca.crt": base64.b64encode(made.authorities).decode(),
                "tls.crt": base64.b64encode(made.leaf).decode(),
                "tls.key": base64.b64encode(made.key).decode(),
            }
            # The Secret's resourceVersion goes with it: of two writers at once the second gets a conflict.
            await self._core.replace_namespaced_secret(self._secret, self._namespace, secret)
        _log.info("webhook certificate issued", extra={"secret": self._secret, "host": self._host})

    async def _trust(self, authorities: bytes) -> None:
        """Make the API server trust these authorities when it calls the webhook."""
        configuration = await self._webhooks.read_mutating_webhook_configuration(self._webhook)
        wanted = base64.b64encode(authorities).decode()
        changes: list[dict[str, Any]] = []
        for index, webhook in enumerate(configuration.webhooks or []):
            if webhook.client_config.ca_bundle != wanted:
                changes += [
                    # An upgrade of the chart may have changed the order since we read.
                    {"op": "test", "path": f"/webhooks/{index}/name", "value": webhook.name},
                    {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": wanted},
                ]
        if changes:
            await self._webhooks.patch_mutating_webhook_configuration(self._webhook, changes)
            _log.info("webhook's authorities written", extra={"webhook": self._webhook})


def _read(secret: V1Secret) -> Certificate | None:
    data = secret.data or {}
    try:
        authorities, leaf, key = (
            base64.b64decode(data[name], validate=True) for name in ("ca.crt", "tls.crt", "tls.key")
        )
    except (KeyError, binascii.Error):
        return None
    return Certificate(authorities=authorities, leaf=leaf, key=key)


def _still_trusted(previous: Certificate | None, now: datetime) -> bytes:
    """The authority before this one, for replicas that still serve what it signed."""
    if previous is None:
        return b""
    try:
        authority = x509.load_pem_x509_certificates(previous.authorities)[0]
    except ValueError:
        return b""
    return _pem(authority) if authority.not_valid_after_utc > now else b""


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0] - _BACKDATED)
        .not_valid_after(validity[1])
    )


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _describe(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"status {error.status}"
    return f"{type(error).__name__}: {error}" if isinstance(error, ssl.SSLError) else type(error).__name__
