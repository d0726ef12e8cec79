"""Sees to it that one database has the tables that are needed, where a resource lets us."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pgqrs import errors, fleet, schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgqrs.database import Database
    from pgqrs_operator.store import Queue

#: Between two looks whether the tables are complete, in seconds.
_VERIFY_SECONDS = 60.0


class Tables:
    """The tables of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._verified_at = float("-inf")

    async def prepare(self, queues: Sequence[Queue]) -> bool:
        """Look whether the tables are complete, unless that was done lately; tell whether they were altered.

        Args:
            queues: those that are declared to be in them.

        Raises:
            SchemaError: they are not, and may not be made.
            DatabaseError: the database does not answer, or refused.
        """
        now = asyncio.get_running_loop().time()
        if now - self._verified_at < _VERIFY_SECONDS:
            return False
        altered = False
        try:
            await schema.verify(self._database)
        except errors.SchemaError:
            if not await self._may_install(queues):
                raise
            # Only where something is missing: it may take minutes, and waits for any other installer.
            await schema.install(self._database)
            altered = True
        self._verified_at = now
        return altered

    async def _may_install(self, queues: Sequence[Queue]) -> bool:
        """Whether a resource that is there wants the tables, or one that goes has to remove what is in old ones."""
        managed = [queue for queue in queues if queue.spec.connection.manage_schema]
        if any(not queue.deleting for queue in managed):
            return True
        deletes = any(queue.spec.deletion_policy == "Delete" for queue in managed)
        return deletes and not await fleet.has_no_queues(self._database)

    def distrust(self) -> None:
        """Look at the tables anew the next time: the database may be another one by then."""
        self._verified_at = float("-inf")

    async def are_gone(self) -> bool:
        """Tell whether it is sure that no queue is left."""
        try:
            return await fleet.has_no_queues(self._database)
        except errors.PgqrsError:
            return False
