"""PgQueuer by its own worker.

Default: batches of 10, all tables logged. Best: batches of 100, its recommended autovacuum settings (`pgq autovac`) and
durability `balanced`, which keeps jobs as safe and its log of them not; on uvloop, as its command runs.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from tests.bench.peers.child import main
from tests.bench.peers.harness import PAYLOAD, Peer

asyncpg: Any = importlib.import_module("asyncpg")
pgqueuer: Any = importlib.import_module("pgqueuer")
db: Any = importlib.import_module("pgqueuer.db")
queries: Any = importlib.import_module("pgqueuer.queries")
qb: Any = importlib.import_module("pgqueuer.adapters.persistence.qb")
types: Any = importlib.import_module("pgqueuer.types")

_BODY = json.dumps(PAYLOAD).encode()


class PgQueuer(Peer):
    """One process with a pool for sending and a worker."""

    async def install(self) -> None:
        """Install as its command does."""
        connection = await asyncpg.connect(self.dsn)
        driver = db.AsyncpgDriver(connection)
        builder = qb.QueryBuilderEnvironment(qb.DBSettings(durability=qb.Durability(self.setting["durability"])))
        installer = queries.Queries(driver, qbe=builder)
        await installer.install()
        if self.setting["autovacuum"]:
            await installer.optimize_autovacuum()
        await connection.close()

    async def open(self) -> None:
        """Connect."""
        self._queries = queries.Queries(db.AsyncpgPoolDriver(await asyncpg.create_pool(self.dsn)))
        self._worker = pgqueuer.PgQueuer(db.AsyncpgDriver(await asyncpg.connect(self.dsn)))

    async def one(self, payload: dict[str, Any]) -> None:
        """Send one."""
        await self._queries.enqueue("work", json.dumps(payload).encode())

    async def many(self, count: int) -> None:
        """Send many."""
        await self._queries.enqueue(["work"] * count, [_BODY] * count, [0] * count)

    async def drain(self) -> None:
        """Run its worker until it finds nothing more."""

        @self._worker.entrypoint("work")  # type: ignore[untyped-decorator] # untyped as seen from here
        async def work(job: Any) -> None:  # noqa: ARG001 - it passes one
            self.handled.hit()

        await self._worker.run(mode=types.QueueExecutionMode.drain, batch_size=self.setting["batch"])

    async def serve(self) -> None:
        """Run its worker for good."""

        @self._worker.entrypoint("work")  # type: ignore[untyped-decorator] # untyped as seen from here
        async def work(job: Any) -> None:
            self.handled.arrived(json.loads(job.payload)["sent"])

        await self._worker.run(batch_size=self.setting["batch"])


if __name__ == "__main__":
    main(PgQueuer)
