"""Who may do what in a local cluster: one authority, a certificate for each component, a kubeconfig for each client.

Everything is made new for each cluster and thrown away with it; nothing here outlives `down`.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cluster.local.layout import Layout

_LIFETIME = dt.timedelta(days=365)
#: Clocks of containers may lag.
_SLACK = dt.timedelta(hours=1)

_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its certificate, both PEM."""

    key: bytes
    certificate: bytes


class Authority:
    """Signs certificates that the whole cluster trusts."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("pgqrs-test-cluster")
        self._certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_AUTHORITY_USAGE, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SLACK)
            .not_valid_after(now + _LIFETIME)
            # Python 3.13 and later insist on it.
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def issue(
        self,
        common_name: str,
        organization: str | None = None,
        *,
        names: tuple[str, ...] = (),
        addresses: tuple[str, ...] = (),
    ) -> KeyPair:
        """Make a key and a certificate, good for a client and, with names or addresses, for a server.

        Args:
            common_name: The user, as Kubernetes sees it.
            organization: The user's group.
            names: DNS names of the server.
            addresses: IP addresses of the server.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(common_name, organization), key).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return KeyPair(_pem(key), certificate.public_bytes(serialization.Encoding.PEM))


def kubeconfig(name: str, server: str, authority: bytes, pair: KeyPair) -> str:
    """Write a kubeconfig that holds everything itself (JSON, which is YAML)."""

    def encoded(data: bytes) -> str:
        return b64encode(data).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": encoded(authority)}},
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": encoded(pair.certificate),
                    "client-key-data": encoded(pair.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return json.dumps(document, indent=1)


def credential_files(layout: Layout) -> dict[Path, bytes]:
    """Make the credentials of every component and of the administrator."""
    authority = Authority()
    keys = layout.credentials
    files = {keys / "ca.crt": authority.certificate}

    def add_pair(name: str, pair: KeyPair) -> None:
        files[keys / f"{name}.key"] = pair.key
        files[keys / f"{name}.crt"] = pair.certificate

    def client(user: str, group: str | None = None) -> bytes:
        pair = authority.issue(user, group)
        return kubeconfig(f"pgqrs-test-{layout.name}", layout.api_url, authority.certificate, pair).encode()

    add_pair(
        "kube-apiserver",
        authority.issue(
            "kube-apiserver",
            names=("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"),
            addresses=(layout.api_address, layout.first_service_address, "127.0.0.1"),
        ),
    )
    add_pair("kubelet-client", authority.issue("kube-apiserver-kubelet-client", "system:masters"))
    accounts = ec.generate_private_key(ec.SECP256R1())
    files[keys / "service-accounts.key"] = _pem(accounts)
    files[keys / "service-accounts.pub"] = accounts.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"):
        files[keys / f"{component}.kubeconfig"] = client(f"system:{component}")
    for node in layout.node_list():
        user = f"system:node:{node.name}"
        files[keys / f"kubelet-{node.name}.kubeconfig"] = client(user, "system:nodes")
        add_pair(
            f"kubelet-{node.name}",
            authority.issue(user, "system:nodes", names=(node.name,), addresses=(node.address,)),
        )
    files[layout.kubeconfig] = client("pgqrs-test-admin", "system:masters")
    return files
