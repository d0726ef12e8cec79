"""Reads the addresses of databases out of Secrets, in memory only; it never shows one."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

from pgqrs import errors
from pgqrs.database import check_dsn
from pgqrs_operator import verdicts
from pgqrs_operator.api import ApiError, BadNameError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgqrs_operator.api import Kubernetes
    from pgqrs_operator.verdicts import Verdict

#: How long an address is taken as current, and how soon one that could not be had is tried again, in seconds.
_FRESH_SECONDS = 3.0
_RETRY_SECONDS = 2.0
_FORBIDDEN = 403
#: A refusal counts once it has lasted for so long, in seconds: an API server that has just started knows no roles yet,
#: and refuses everybody.
_REFUSED_SECONDS = 10.0
#: Secrets that are read at a time; and of more than this an address stays current for longer, in proportion: the API
#: server is not asked more than some fifty times a second.
_PARALLEL = 16
_MANY = 150


class SecretKey(NamedTuple):
    """A key of a Secret."""

    namespace: str
    name: str
    key: str


class Address(NamedTuple):
    """Where a database is."""

    dsn: str
    #: The Secret says so no more; it is the last one that it said.
    leftover: bool


class Addresses:
    """The databases' addresses, read again every now and then, so that a rotated password is noticed."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._kubernetes = kubernetes
        self._known: dict[SecretKey, tuple[float, str | Verdict]] = {}
        self._last: dict[SecretKey, str] = {}
        #: Since when a Secret may not be read.
        self._refused_at: dict[SecretKey, float] = {}
        self._patience = 1.0

    async def refresh(self, keys: Collection[SecretKey]) -> bool:
        """Read what is not fresh any more, side by side, and forget what nobody asks for.

        Returns:
            Whether anything else is known now than before.
        """
        now = asyncio.get_running_loop().time()
        before = {key: answer for key, (_, answer) in self._known.items()}
        self._known = {key: known for key, known in self._known.items() if key in keys}
        self._last = {key: last for key, last in self._last.items() if key in keys}
        self._refused_at = {key: at for key, at in self._refused_at.items() if key in keys}
        self._patience = max(1.0, len(keys) / _MANY)
        slots = asyncio.Semaphore(_PARALLEL)

        async def read(key: SecretKey) -> None:
            async with slots:
                await self._refresh(key)

        async with asyncio.TaskGroup() as group:
            for key in keys:
                if self._known.get(key, (0.0, ""))[0] <= now:
                    group.create_task(read(key))
        return before != {key: answer for key, (_, answer) in self._known.items()}

    def keys(self) -> Collection[SecretKey]:
        """Give those that somebody asks for, as of the last `refresh`."""
        return list(self._known)

    def find(self, key: SecretKey, *, leftover: bool = False) -> Address | Verdict:
        """Give the address, or what is wrong, as of the last `refresh`.

        Args:
            key: where it is.
            leftover: take the last one that was there where the Secret does not give one any more: a namespace loses
                its Secrets, and the right to read them, before its queues, whose rows are still to be left in order.
        """
        found = self._known[key][1]
        if isinstance(found, str):
            return Address(found, leftover=False)
        if leftover and found.kind == "stalled" and key in self._last:
            return Address(self._last[key], leftover=True)
        return found

    async def _refresh(self, key: SecretKey) -> None:
        answer = await self._read(key)
        now = asyncio.get_running_loop().time()
        if isinstance(answer, str) or answer.reason != "SecretForbidden":
            self._refused_at.pop(key, None)
        elif now - self._refused_at.setdefault(key, now) < _REFUSED_SECONDS:
            answer = verdicts.waiting("SecretUnavailable", answer.message)
        if isinstance(answer, str):
            self._last[key] = answer
            self._known[key] = (now + _FRESH_SECONDS * self._patience, answer)
        else:
            if answer.kind == "waiting":
                # The API server does not answer; that says nothing about the database.
                answer = self._last.get(key, answer)
            self._known[key] = (now + _RETRY_SECONDS * self._patience, answer)

    async def _read(self, key: SecretKey) -> str | Verdict:
        where = f"Secret {key.name!r} in namespace {key.namespace!r}"
        try:
            secret = await self._kubernetes.get_secret(key.namespace, key.name)
        except ApiError as error:
            return _unreadable(key, where, error)
        data = secret.get("data") or {}
        if key.key not in data:
            there = ", ".join(sorted(data)[:10]) or "nothing"
            return verdicts.stalled(
                "SecretKeyNotFound",
                f"The {where} has no key {key.key!r}; it has: {there}. Add the key, or name another one in "
                "spec.connection.secretRef.key.",
            )
        try:
            return check_dsn(base64.b64decode(data[key.key], validate=True).decode().strip())
        except (binascii.Error, UnicodeDecodeError, errors.ConfigurationError):
            return verdicts.stalled(
                "InvalidDsn",
                f"Key {key.key!r} of {where} is no PostgreSQL address; it has the form "
                "postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
            )


def _unreadable(key: SecretKey, where: str, error: ApiError) -> Verdict:
    if isinstance(error, NotFoundError):
        return verdicts.stalled(
            "SecretNotFound",
            f"There is no {where}. Create it: kubectl -n {key.namespace} create secret generic {key.name} "
            f"--from-literal={key.key}=postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        )
    if isinstance(error, BadNameError):
        return verdicts.stalled("InvalidSpec", f"spec.connection.secretRef.name: {error}.")
    if error.status == _FORBIDDEN:
        return verdicts.stalled(
            "SecretForbidden",
            f"The operator may not read {where}; add its name to the chart's value rbac.secretNames.",
        )
    return verdicts.waiting("SecretUnavailable", f"The {where} cannot be read at the moment.")
