"""Who of several operators acts: the one that holds the Lease, and only as long as it can be sure of it.

A leader counts from the moment *before* it sent a renewal, and stops `deadline` after it. A follower counts from the
moment *after* it saw the Lease change, and takes it `duration` later. Each uses its own monotonic clock, and no time
that is written in the Lease is compared with any clock, so clocks that differ between nodes do no harm; what lies
between the two is the time in which whatever the former leader had under way ends.

The election of the `kubernetes` package is not used: its requests have no deadline, an error of the network ends its
loop without stopping what it had started, it counts by the wall clock, and it never gives the Lease back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pgqrs.errors import PgqrsError
from pgqrs_operator.api import ApiError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgqrs_operator.leases import LeaseClient

_log = logging.getLogger(__name__)

_NEVER = float("-inf")


class LeadershipLostError(PgqrsError):
    """This process is not the leader any more; it ends, and starts anew as a follower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long what takes, in seconds. With these a dead leader is replaced within `duration + look`: 10.5 s."""

    #: A Lease that was not renewed for so long is anybody's.
    duration: float = 10.0
    #: A leader that could not renew it for so long stops.
    deadline: float = 6.0
    #: Between two renewals; also of one request.
    interval: float = 2.0

    @property
    def look(self) -> float:
        """Between two looks of a follower; a Lease that was given back is taken after this."""
        return self.interval / 4


TIMING = Timing()


class Leadership:
    """This process's part in the election."""

    def __init__(self, lease: LeaseClient, identity: str, timing: Timing = TIMING) -> None:
        """Become a candidate.

        Args:
            lease: the Lease that all candidates share.
            identity: who this is, `POD_ADDRESS`. A container that was restarted in its pod is the same as before,
                because the kubelet starts it only when the one before has ended: it need not wait for its own Lease.
            timing: how long what takes.
        """
        self._lease = lease
        self._identity = identity
        self._timing = timing
        #: The Lease as we last saw it, when it last differed from before, and as we last wrote it.
        self._seen: Mapping[str, Any] = {}
        self._seen_at = _NEVER
        self._held: dict[str, Any] = {}
        #: Until when this process may act, by the monotonic clock.
        self.valid_until = _NEVER
        self._trouble = ""
        #: When it became ours, and when we last tried to get or to renew it, by the monotonic clock.
        self.leads_since: float | None = None
        self.tried_at = time.monotonic()

    @property
    def leads(self) -> bool:
        """Whether this process may act at this very moment."""
        return time.monotonic() < self.valid_until

    @property
    def informed(self) -> bool:
        """Whether the Lease was read or written at least once."""
        return self._seen_at > _NEVER

    @property
    def leader_address(self) -> str | None:
        """The address of the pod that holds the Lease, as far as this process knows."""
        return str(self._seen.get("holderIdentity") or "").partition("_")[2] or None

    async def acquire(self) -> None:
        """Wait until nobody else holds the Lease, however long that takes, and take it."""
        while not self.leads:
            self.tried_at = time.monotonic()
            try:
                pause = await self._look()
                self._trouble = ""
            except ConflictError:
                # Another candidate was faster.
                pause = self._timing.interval
            except ApiError as error:
                pause = self._timing.interval
                self._complain(error)
            await asyncio.sleep(pause)
        self.leads_since = time.monotonic()
        _log.info("this process leads", extra={"lease": self._lease.name, "identity": self._identity})

    async def keep(self) -> None:
        """Renew the Lease for ever.

        Raises:
            LeadershipLostError: it could not be renewed in time, or is somebody else's.
        """
        while True:
            await asyncio.sleep(self._timing.interval)
            await self._renew()

    async def release(self) -> None:
        """Give the Lease back, once nothing acts any more: the next leader need not wait. A failure is left to time."""
        if not self.leads:
            return
        self.valid_until = _NEVER
        spec = {key: value for key, value in self._held["spec"].items() if key != "holderIdentity"}
        try:
            await self._lease.replace(
                {**self._held, "spec": {**spec, "renewTime": _stamp()}}, timeout=self._timing.interval
            )
        except ApiError as error:
            _log.info("the Lease runs out by itself", extra={"lease": self._lease.name, "error": str(error)})

    # -- a follower

    async def _look(self) -> float:
        """Look at the Lease, and take it if nobody holds it; give the seconds until the next look."""
        try:
            found = await self._lease.read(timeout=self._timing.interval)
        except NotFoundError:
            found = {}
        spec = found.get("spec") or {}
        now = time.monotonic()
        if spec != self._seen:
            self._seen, self._seen_at = spec, now
        # The holder may be of another version, with another duration.
        held = max(self._timing.duration, float(spec.get("leaseDurationSeconds") or 0))
        left = self._seen_at + held - now
        if spec.get("holderIdentity") and spec["holderIdentity"] != self._identity and left > 0:
            return min(self._timing.look, left)
        await self._take(found)
        return 0.0

    async def _take(self, found: dict[str, Any]) -> None:
        sent, stamp = time.monotonic(), _stamp()
        before = found.get("spec") or {}
        spec = {
            **before,
            "holderIdentity": self._identity,
            # Whole seconds are what the API server takes.
            "leaseDurationSeconds": math.ceil(self._timing.duration),
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + 1,
        }
        if found:
            self._hold(await self._lease.replace({**found, "spec": spec}, timeout=self._timing.interval), sent)
        else:
            self._hold(await self._lease.make(spec, timeout=self._timing.interval), sent)

    def _hold(self, lease: dict[str, Any], sent: float) -> None:
        self._held = lease
        self._seen, self._seen_at = lease["spec"], time.monotonic()
        self.valid_until = sent + self._timing.deadline

    # -- a leader

    async def _renew(self) -> None:
        while True:
            sent = self.tried_at = time.monotonic()
            left = self.valid_until - sent
            if left <= 0:
                why = f"could not be renewed for {self._timing.deadline:g} s"
                raise self._lost(why)
            timeout = min(self._timing.interval, left)
            try:
                spec = {**self._held["spec"], "renewTime": _stamp()}
                self._hold(await self._lease.replace({**self._held, "spec": spec}, timeout=timeout), sent)
            except (ConflictError, NotFoundError):
                await self._still_ours(timeout)
            except ApiError as error:
                self._complain(error)
            else:
                self._trouble = ""
                return
            await asyncio.sleep(min(self._timing.interval / 4, left))

    async def _still_ours(self, timeout: float) -> None:
        """Find out who wrote it; where it is still ours, the next renewal fits what is there now."""
        try:
            found = await self._lease.read(timeout=timeout)
        except NotFoundError:
            # Somebody deleted it, and somebody else may have it at any moment.
            why = "is gone"
            raise self._lost(why) from None
        except ApiError as error:
            self._complain(error)
            return
        ours, spec = self._held["spec"], found.get("spec") or {}
        # Two processes of one identity differ in when they took it.
        if any(spec.get(key) != ours[key] for key in ("holderIdentity", "acquireTime")):
            why = f"is held by {spec.get('holderIdentity') or 'nobody'}"
            raise self._lost(why)
        self._held = found

    def _lost(self, why: str) -> LeadershipLostError:
        self.valid_until = min(self.valid_until, time.monotonic())
        return LeadershipLostError(
            f"The Lease {self._lease.name!r} in namespace {self._lease.namespace!r} {why}; this process stops, and "
            "waits for it when it is started again."
        )

    def _complain(self, error: ApiError) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            _log.warning("Lease not written or read", extra={"lease": self._lease.name, "error": self._trouble})


def _stamp() -> str:
    """The time for people, in the API's own form; what matters is only that it differs from the one before."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
