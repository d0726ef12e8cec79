"""A Secret that may not be read: an API server that has just started refuses everybody, and means nothing by it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, cast

from pgqrs_operator import secrets
from pgqrs_operator.api import ApiError, Kubernetes
from pgqrs_operator.secrets import Address, Addresses, SecretKey
from pgqrs_operator.verdicts import Verdict

if TYPE_CHECKING:
    import pytest

_KEY = SecretKey("shop", "pgqrs", "dsn")
_DSN = "postgresql://pgqrs@db/app"


class _Server:
    """An API server that refuses, or not."""

    refuses = True

    async def get_secret(self, namespace: str, name: str) -> dict[str, Any]:
        if self.refuses:
            message = f"{namespace}/{name}: forbidden"
            raise ApiError(message, 403)
        return {"data": {"dsn": base64.b64encode(_DSN.encode()).decode()}}


def _reason(found: Address | Verdict) -> tuple[str, str]:
    assert isinstance(found, Verdict)
    return found.kind, found.reason


async def test_only_a_refusal_that_lasts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(secrets, "_RETRY_SECONDS", 0.0)
    server = _Server()
    addresses = Addresses(cast("Kubernetes", server))

    await addresses.refresh([_KEY])
    assert _reason(addresses.find(_KEY)) == ("waiting", "SecretUnavailable")
    server.refuses = False
    await addresses.refresh([_KEY])
    assert addresses.find(_KEY) == Address(_DSN, leftover=False)
    server.refuses = True
    await addresses.refresh([_KEY])
    assert addresses.find(_KEY) == Address(_DSN, leftover=False)

    monkeypatch.setattr(secrets, "_REFUSED_SECONDS", 0.0)
    await addresses.refresh([_KEY])
    assert _reason(addresses.find(_KEY)) == ("stalled", "SecretForbidden")
