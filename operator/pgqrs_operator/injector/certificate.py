"""The injector's side of the webhook certificate: reads the Secret and keeps the TLS context up to date.

The operator writes that Secret. Nothing of it reaches a file: the private key stays in memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import ssl
from typing import TYPE_CHECKING

import aiohttp
from cryptography import x509
from kubernetes.aio.client.api.core_v1_api import CoreV1Api
from kubernetes.aio.client.exceptions import ApiException

if TYPE_CHECKING:
    from kubernetes.aio.client.api_client import ApiClient

_log = logging.getLogger(__name__)

_DEADLINE_SECONDS = 5.0


class CertificateError(Exception):
    """The Secret holds no certificate that can be used; the message says why, without quoting it."""


class ServedCertificate:
    """The certificate that new connections are served with."""

    def __init__(self) -> None:
        #: For the server; what is loaded later is what later connections get.
        self.context = _context()
        #: Set once there is a certificate.
        self.loaded = asyncio.Event()
        #: When the certificate ends, in seconds since 1970; 0 without one.
        self.expires: float = 0.0
        self._current = b""

    def load(self, certificate: bytes, key: bytes) -> bool:
        """Serve this certificate (PEM, leaf first) from now on; False if it is the one already served.

        Raises:
            CertificateError: the two are no certificate and its key; what was served before stays.
        """
        pem = certificate.rstrip() + b"\n" + key
        if pem == self._current:
            return False
        try:
            leaf = x509.load_pem_x509_certificate(certificate)
            # First into a context that nobody uses: a key that does not fit would spoil the one in use.
            _load(_context(), pem)
            _load(self.context, pem)
        except (ssl.SSLError, ValueError) as error:
            message = f"The webhook certificate cannot be used ({type(error).__name__})."
            raise CertificateError(message) from error
        self._current = pem
        self.expires = leaf.not_valid_after_utc.timestamp()
        self.loaded.set()
        return True


class CertificateReader:
    """Reads the Secret again and again."""

    def __init__(
        self, client: ApiClient, served: ServedCertificate, *, namespace: str, secret: str, first: float, later: float
    ) -> None:
        """Take the pauses in seconds: `first` until there is a certificate, then `later`."""
        self._core = CoreV1Api(client)
        self._served = served
        self._namespace = namespace
        self._secret = secret
        self._first = first
        self._later = later

    async def run(self) -> None:
        """Read for ever; a failure is logged when it is a new one, and what is served stays."""
        trouble = ""
        while True:
            try:
                await self._read()
                trouble = ""
            except (CertificateError, ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
                found = (
                    f"status {error.status}" if isinstance(error, ApiException) else str(error) or type(error).__name__
                )
                if found != trouble:
                    trouble = found
                    _log.warning("webhook certificate not read", extra={"secret": self._secret, "error": found})
            await asyncio.sleep(self._later if self._served.loaded.is_set() else self._first)

    async def _read(self) -> None:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            secret = await self._core.read_namespaced_secret(self._secret, self._namespace)
        data = secret.data or {}
        try:
            certificate, key = (base64.b64decode(data[name], validate=True) for name in ("tls.crt", "tls.key"))
        except (KeyError, binascii.Error) as error:
            message = "The Secret holds no certificate yet."
            raise CertificateError(message) from error
        if self._served.load(certificate, key):
            _log.info("webhook certificate loaded", extra={"secret": self._secret, "expires": self._served.expires})


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    # The ssl module reads files only; this one lives in memory and is gone when it is closed.
    descriptor = os.memfd_create("webhook-certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        # Without an answer OpenSSL would ask a terminal for the password of an encrypted key.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
