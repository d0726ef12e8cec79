"""A database and what is declared about it, planned and carried out until nothing is left to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pgqrs
from pgqrs import fleet, lifecycle, queues
from pgqrs.models import PodIdentity, QueuePolicy
from pgqrs_operator.actions import carry_out
from pgqrs_operator.facts import Desired, DesiredQueue, DesiredWorker, Key, Observed, Plan
from pgqrs_operator.metrics import Metrics
from pgqrs_operator.plan import plan

if TYPE_CHECKING:
    from pgqrs.database import Database
    from pgqrs.models import WorkerInfo
    from pgqrs_operator.pods import Restart

POD = PodIdentity(uid="uid-1", name="web-1", namespace="shop")
WORKER = DesiredWorker(key=Key("shop", "web-1"), owner="shop/web-1", age=("1", "1"), pod_uid=POD.uid)


def queue(name: str = "emails", **changes: Any) -> DesiredQueue:
    made = DesiredQueue(key=Key("shop", name), owner=f"shop/{name}", age=("1", name), name=name, policy=QueuePolicy())
    return replace(made, **changes)


@dataclass
class World:
    """A database, and what is declared about it."""

    db: Database
    queues: tuple[DesiredQueue, ...] = ()
    workers: tuple[DesiredWorker, ...] = ()
    others: frozenset[str] = frozenset()
    ended: dict[str, str] | None = None
    restarts: dict[str, Restart] | None = None
    silence_counts: bool = True

    async def plan(self) -> Plan:
        found = await fleet.observe(
            self.db,
            queues=[one.name for one in self.queues],
            emptying=[one.name for one in self.queues if one.delete_data],
            workers=[one.row_name for one in self.workers if one.row_name],
            pods=[one.pod_uid for one in self.workers if one.pod_uid],
        )
        desired = Desired(queues=self.queues, workers=self.workers, others=self.others)
        observed = Observed(
            fleet=found, ended=self.ended or {}, restarts=self.restarts or {}, silence_counts=self.silence_counts
        )
        return plan(desired, observed)

    async def converge(self) -> Plan:
        for _ in range(5):
            planned = await self.plan()
            if not planned.actions:
                return planned
            await carry_out(self.db, planned.actions, Metrics())
        raise AssertionError(planned.actions)

    async def row(self, name: str = "emails") -> pgqrs.QueueInfo:
        return await queues.get(self.db, name)

    async def worker(self) -> WorkerInfo:
        return await lifecycle.register(self.db, "emails", hostname="web-1.shop", pod=POD)


async def leased(world: World, worker: WorkerInfo) -> int:
    """Let the worker take a message, and give the message's id."""
    async with pgqrs.Admin(world.db.dsn) as admin:
        async with pgqrs.Producer(admin, "emails") as producer:
            await producer.enqueue({"to": "a"})
        (message_id,) = await dequeued(world, worker.id)
        return message_id


async def dequeued(world: World, worker_id: int) -> list[int]:
    """Lease a message for a worker, and give its id."""
    _, *found = await world.db.fetch("messages.dequeue", worker_id, 1, None, None)
    return [row["id"] for row in found]
