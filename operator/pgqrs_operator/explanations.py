"""Writes on workers that died, and on the dead letters that came of it, how their container ended.

A sidecar knows at once that a process is dead, and never why: that the kernel ended it for its memory stands in the
pod's status, a moment later.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pgqrs import fleet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqrs.database import Database
    from pgqrs.fleet import ContainerEnd
    from pgqrs_operator.pods import Pod

#: For so long after an end was first seen a worker may still be stopped because of it, in seconds.
_PATIENCE_SECONDS = 30.0


class Explanations:
    """Explains the deaths in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: When each end was first seen, by the event loop's clock.
        self._since: dict[ContainerEnd, float] = {}

    async def give(self, pods: Iterable[Pod]) -> None:
        """Write down how containers of these pods ended.

        Raises:
            DatabaseError: the database does not answer, or refuses; the next call tries it again.
        """
        now = asyncio.get_running_loop().time()
        self._since = {end: self._since.get(end, now) for pod in pods for end in pod.ends}
        fresh = [end for end, since in self._since.items() if now - since <= _PATIENCE_SECONDS]
        await fleet.explain_deaths(self._database, fresh)
