"""The part of a plan that is about queues. Pure."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from pgqrs.fleet import QueueDeclaration
from pgqrs_operator import verdicts
from pgqrs_operator.drafting import FROZEN
from pgqrs_operator.facts import Concerned, DeclareQueue, DeleteQueue, DisownQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgqrs.fleet import FleetQueue
    from pgqrs_operator.drafting import Draft
    from pgqrs_operator.facts import Desired, DesiredQueue, Observed

#: As far as live messages are counted.
_MANY = 10_000


def plan_queues(desired: Desired, observed: Observed, draft: Draft) -> None:
    """Write what is to be done about queues, and what can be said of them, into a draft."""
    planner = _QueuePlanner(desired, observed, draft)
    for _, group in groupby(sorted(desired.queues, key=lambda q: (q.name, q.age)), key=lambda q: q.name):
        queues = list(group)
        with draft.guarded([Concerned("queue", queue.key) for queue in queues]):
            planner.queues_of_one_name(queues)


class _QueuePlanner:
    def __init__(self, desired: Desired, observed: Observed, draft: Draft) -> None:
        self._desired = desired
        self._observed = observed
        self._draft = draft

    def queues_of_one_name(self, queues: Sequence[DesiredQueue]) -> None:
        first, *others = queues
        for other in others:
            if other.deleting and not other.frozen:
                # What it may have owned before, the first one has or takes.
                self._draft.done_queues.add(other.key)
            self._draft.queues[other.key] = verdicts.stalled(
                "Conflict",
                f"Queue {other.name!r} belongs to PgqrsQueue {first.key}, which is older; "
                "give this one another queueName.",
            )
        row = self._observed.fleet.queues.get(first.name)
        if first.frozen:
            self._draft.queues[first.key] = FROZEN
        elif first.deleting:
            self._deleted(first, row)
        else:
            self._declared(first, row)

    def _declared(self, queue: DesiredQueue, row: FleetQueue | None) -> None:
        owner = row.info.owner if row else None
        if owner not in {None, queue.owner} and owner in self._desired.others:
            self._draft.queues[queue.key] = verdicts.stalled(
                "Conflict",
                f"Queue {queue.name!r} belongs to {owner} in this database; give this one another queueName, or delete "
                "that one. If that was this very resource before the cluster got its name, set `owner` of the queue's "
                "row to NULL.",
            )
            return
        if queue.policy is None:
            self._draft.queues[queue.key] = verdicts.stalled("InvalidSpec", queue.problem)
            return
        if row and owner == queue.owner and _as_declared(queue, row):
            text = f"Queue {queue.name!r} is as declared"
            paused = ": paused, nobody is handed a message." if queue.policy.paused else "."
            self._draft.queues[queue.key] = verdicts.ready("InSync", text + paused)
            return
        if row is None:
            cause = "Recreated" if queue.settled else "Created"
        elif owner != queue.owner:
            cause = "Adopted"
        else:
            cause = "DriftRepaired" if queue.settled else "Updated"
        declaration = QueueDeclaration(
            name=queue.name,
            policy=queue.policy,
            owner=queue.owner,
            previous_owner=owner,
            retention=queue.retention,
        )
        self._draft.actions.append(DeclareQueue(queue.key, declaration, cause))
        self._draft.queues[queue.key] = verdicts.waiting("Applying", f"Queue {queue.name!r} is being made as declared.")

    def _deleted(self, queue: DesiredQueue, row: FleetQueue | None) -> None:
        if row is None or row.info.owner != queue.owner:
            self._draft.done_queues.add(queue.key)
            self._draft.queues[queue.key] = verdicts.waiting(
                "Deleting", "Nothing in the database belongs to this resource any more."
            )
        elif not queue.delete_data:
            self._draft.actions.append(DisownQueue(queue.key, queue.name, queue.owner))
            self._draft.queues[queue.key] = verdicts.waiting(
                "Deleting", f"Queue {queue.name!r} is being left to itself."
            )
        elif row.live is None or row.live:
            count = "some" if row.live is None else f"{row.live}" if row.live < _MANY else f"{_MANY} or more"
            self._draft.queues[queue.key] = verdicts.waiting(
                "WaitingForMessages",
                f"Queue {queue.name!r} has {count} live message(s). It is removed when none is left; "
                "set deletionPolicy to Retain to keep it and delete only this resource.",
            )
        else:
            self._draft.actions.append(DeleteQueue(queue.key, queue.name))
            self._draft.queues[queue.key] = verdicts.waiting("Deleting", f"Queue {queue.name!r} is being removed.")


def _as_declared(queue: DesiredQueue, row: FleetQueue) -> bool:
    return row.info.policy == queue.policy and queue.retention in {None, row.info.retention}
