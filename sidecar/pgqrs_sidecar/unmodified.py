"""The rows of processes that know nothing of this sidecar, such as those of upstream's client.

They are taken over, and from then on they are beaten, drained, released and stopped with the pod's other rows. Their
processes have no connection here, so nothing is known of their deaths (`docs/design/sidecar.md`).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pgqrs import errors, pods

if TYPE_CHECKING:
    from pgqrs.database import Database
    from pgqrs.models import PodIdentity, WorkerId
    from pgqrs_sidecar.outage import Outage

_log = logging.getLogger(__name__)


class UnmodifiedApps:
    """The pod's rows that no session and no library of ours made."""

    def __init__(self, database: Database, pod: PodIdentity, outage: Outage) -> None:
        self._database = database
        self._pod = pod
        self._outage = outage
        self._began = time.monotonic()
        self._left_alone: frozenset[WorkerId] = frozenset()
        self._complaint = ""
        #: Those that live, as the database last showed them.
        self.ids: frozenset[WorkerId] = frozenset()

    async def adopt(self) -> frozenset[WorkerId]:
        """Take over what has come, and give it.

        A database that refuses this (rights that are older than this sidecar) costs the pod nothing else.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        try:
            found = await pods.adopt(self._database, self._pod, seconds=time.monotonic() - self._began)
        except errors.DatabaseUnavailableError:
            # Only this is an outage; what is refused here, the other statements may well be allowed.
            with self._outage.watched():
                raise
        except errors.DatabaseError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("rows of unmodified apps cannot be looked after", extra={"error": self._complaint})
            return frozenset()
        fresh = found.ids - self.ids
        self.ids = found.ids
        if fresh:
            _log.info("rows of unmodified apps adopted", extra={"worker_ids": sorted(fresh)})
        if found.ambiguous - self._left_alone:
            _log.warning(
                "rows are left alone, because another pod of this name may be theirs; name the app's workers after "
                "PGQRS_HOSTNAME",
                extra={"worker_ids": sorted(found.ambiguous)},
            )
        self._left_alone = found.ambiguous
        return fresh
