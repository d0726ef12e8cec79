"""The part of a plan that is about queues. Pure."""

from __future__ import annotations

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
    from pgqrs_operator.verdicts import Verdict

#: As far as live messages are counted.
_MANY = 10_000


def plan_queues(desired: Desired, observed: Observed, draft: Draft) -> None:
    """Write what is to be done about queues, and what can be said of them, into a draft."""
    planner = _QueuePlanner(desired, observed, draft)
    by_name: dict[str, list[DesiredQueue]] = {}
    for queue in desired.queues:
        by_name.setdefault(queue.name, []).append(queue)
    for _, queues in sorted(by_name.items()):
        with draft.guarded([Concerned("queue", queue.key) for queue in queues]):
            planner.queues_of_one_name(queues)


def may_touch(queue: DesiredQueue, row: FleetQueue) -> bool:
    """Tell whether a resource has to do with a row: it is its own, or one that it says it takes over."""
    return row.info.owner == queue.owner or (queue.adopts and queue.policy is not None)


class _QueuePlanner:
    def __init__(self, desired: Desired, observed: Observed, draft: Draft) -> None:
        self._desired = desired
        self._observed = observed
        self._draft = draft

    def queues_of_one_name(self, queues: Sequence[DesiredQueue]) -> None:
        """Plan for all resources of one name: the one that has the row counts, or had it, else the oldest."""
        row = self._observed.fleet.queues.get(queues[0].name)
        owner = row.info.owner if row else None
        first, *others = sorted(
            queues, key=lambda queue: (queue.owner != owner, row is None and queue.former_id is None, queue.age)
        )
        self._draft.queues[first.key] = self._first(first, row)
        for other in others:
            if other.deleting and not other.frozen:
                # Nothing in the database is its own.
                self._draft.done_queues.add(other.key)
            self._draft.queues[other.key] = _conflict(
                f"Queue {other.name!r} belongs to PgqrsQueue {first.key}; give this one another queueName."
            )

    def _first(self, queue: DesiredQueue, row: FleetQueue | None) -> Verdict:
        if queue.frozen:
            return FROZEN
        if queue.deleting:
            return self._deleted(queue, row)
        return self._refusal(queue, row) or self._declared(queue, row)

    def _refusal(self, queue: DesiredQueue, row: FleetQueue | None) -> Verdict | None:
        """Say why nothing may be changed on behalf of this resource."""
        owner = row.info.owner if row else None
        if owner not in {None, queue.owner} and owner in self._desired.others:
            return _conflict(
                f"Queue {queue.name!r} belongs to {owner} in this database; give this one another queueName, or delete "
                "that one. If that was this very resource before the cluster got its name, set `owner` of the queue's "
                "row to NULL."
            )
        if queue.policy is None:
            return verdicts.stalled("InvalidSpec", queue.problem)
        if row is not None and not may_touch(queue, row):
            return _conflict(
                f"The database has a queue {queue.name!r} already, which this resource did not make, and spec.adopt is "
                "Never; set it to IfExists to take the queue over, or give this one another queueName."
            )
        return None

    def _declared(self, queue: DesiredQueue, row: FleetQueue | None) -> Verdict:
        assert queue.policy is not None  # noqa: S101 - `_refusal` has seen to that
        owner = row.info.owner if row else None
        if row and owner == queue.owner and _as_declared(queue, row):
            text = f"Queue {queue.name!r} is as declared"
            return verdicts.ready(
                "InSync", f"{text}: paused, nobody is handed a message." if queue.policy.paused else f"{text}."
            )
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
            # A row that appears meanwhile belongs to nobody: who adopts none must not meet it.
            previous_owner=owner if queue.adopts else queue.owner,
            former_id=queue.former_id if row is None else None,
            retention=queue.retention,
        )
        self._draft.actions.append(DeclareQueue(queue.key, declaration, cause))
        return verdicts.waiting("Applying", f"Queue {queue.name!r} is being made as declared.")

    def _deleted(self, queue: DesiredQueue, row: FleetQueue | None) -> Verdict:
        if row is None or row.info.owner != queue.owner:
            self._draft.done_queues.add(queue.key)
            return _deleting("Nothing in the database belongs to this resource any more.")
        if not queue.delete_data:
            self._draft.actions.append(DisownQueue(queue.key, queue.name, queue.owner))
            return _deleting(f"Queue {queue.name!r} is being left to itself.")
        if row.live is None or row.live:
            count = "some" if row.live is None else f"{row.live}" if row.live < _MANY else f"{_MANY} or more"
            return verdicts.waiting(
                "WaitingForMessages",
                f"Queue {queue.name!r} has {count} live message(s). It is removed when none is left; "
                "set deletionPolicy to Retain to keep it and delete only this resource.",
            )
        self._draft.actions.append(DeleteQueue(queue.key, queue.name, row.info))
        return _deleting(f"Queue {queue.name!r} is being removed.")


def _as_declared(queue: DesiredQueue, row: FleetQueue) -> bool:
    return row.info.policy == queue.policy and queue.retention in {None, row.info.retention}


def _conflict(text: str) -> Verdict:
    return verdicts.stalled("Conflict", text)


def _deleting(text: str) -> Verdict:
    return verdicts.waiting("Deleting", text)
