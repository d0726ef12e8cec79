"""Decides when a resource whose rows cannot be put in order is let go all the same, so that no deletion hangs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pgqrs_operator.drafting import FROZEN
from pgqrs_operator.store import Queue

if TYPE_CHECKING:
    from pgqrs_operator.reports import Reporter
    from pgqrs_operator.store import Resource
    from pgqrs_operator.verdicts import Verdict

#: A deletion that cannot reach its database is let go after this time.
LET_GO_AFTER = timedelta(seconds=30)


async def tell_or_let_go(
    reporter: Reporter, resource: Resource, verdict: Verdict, *, gone: bool = False, quietly: bool = False
) -> None:
    """Say what is wrong, or, where a deletion has waited too long for a database that cannot be had, let it go.

    Args:
        reporter: who writes it.
        resource: whom it is about.
        verdict: what is wrong.
        gone: nothing is left that could be deleted, or nobody can know any more where it was. Until then a queue whose
            data is to be deleted waits: a database that does not answer may still have it.
        quietly: say it in the status alone.
    """
    if resource.frozen:
        await reporter.tell(resource, FROZEN)
        return
    if resource.deleting is None:
        await reporter.tell(resource, verdict, quietly=quietly)
        return
    if not resource.held:
        # We let it go before; whatever keeps it is somebody else's.
        return
    deletes = isinstance(resource, Queue) and resource.spec.deletion_policy == "Delete"
    if datetime.now(UTC) - resource.deleting > LET_GO_AFTER and (gone or not deletes):
        if await reporter.let_go(resource):
            why = ", although deletionPolicy is Delete, because nothing of it can be found" if deletes else ""
            text = f"It is let go without a look at its rows{why}; what is left of them stays. {verdict.message}"
            await reporter.event(resource, "LetGo", text, warning=True)
        return
    if deletes and not gone:
        hint = "The deletion waits for the database; set deletionPolicy to Retain to let this resource go without it."
        verdict = replace(verdict, message=f"{verdict.message} {hint}")
    await reporter.tell(resource, verdict, quietly=quietly)
