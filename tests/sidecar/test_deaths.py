"""Processes that end without a goodbye: what they held is free, and the pod has a new row, as soon as it is known.

One that only hangs is not dead: it gets no heartbeats, and keeps what it has.

How soon is read from the database's own times.
"""

from __future__ import annotations

import signal
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.sidecar.processes import Pod, Process, eventually
from tests.sidecar.trouble import beaten, number

if TYPE_CHECKING:
    import pgqrs
    from tests.sidecar.conftest import Observer

#: From the end of the old row to the beginning of the new one.
_REPLACED_WITHIN = timedelta(seconds=1)


async def _replaced(database: Observer, worker_id: int) -> None:
    """Wait until the pod has another row, and look at both."""

    async def look() -> bool:
        return [row["container"] for row in await database.rows()] == [None]

    await eventually(look)
    (fresh,) = await database.rows()
    dead = await database.row(worker_id)
    assert (dead["state"], dead["stop_reason"]) == ("stopped", "process died")
    assert fresh["id"] > worker_id
    assert fresh["started_at"] - dead["shutdown_at"] <= _REPLACED_WITHIN


async def _at_work(pod: Pod, producer: pgqrs.Producer, payload: object) -> tuple[Process, int, int]:
    """An app in the middle of a message: the app, its worker, the message."""
    app = await pod.app(handler_seconds=60)
    worker_id = (await app.line(event="started"))["worker_id"]
    message = await producer.enqueue(payload)
    await app.line(event="leased", id=message)
    return app, worker_id, message


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV], ids=lambda number: number.name)
async def test_a_process_that_is_killed(
    pod: Pod, database: Observer, producer: pgqrs.Producer, number: signal.Signals
) -> None:
    await pod.sidecar()
    app, worker_id, message = await _at_work(pod, producer, {})
    app.signal(number)
    assert await app.ended() == -number
    await _replaced(database, worker_id)
    freed = await database.message(message)
    assert (freed["consumer_worker_id"], freed["archived_at"], freed["read_ct"], freed["deaths"]) == (None, None, 1, 1)


async def test_a_message_that_every_process_dies_of_is_given_up(
    pod: Pod, database: Observer, producer: pgqrs.Producer
) -> None:
    await pod.sidecar()
    message = None
    for death in range(3):
        app = await pod.app(handler_seconds=60)
        worker_id = (await app.line(event="started"))["worker_id"]
        message = message or await producer.enqueue({"die": "abort"})
        assert await app.ended() == -signal.SIGABRT, f"death {death}"
        await _replaced(database, worker_id)
    assert message is not None
    letter = await database.message(message)
    assert letter["dead_reason"].startswith("3 processes died while it held this, at last worker ")
    assert letter["dead_reason"].endswith(": process died")


@pytest.mark.parametrize(("how", "code"), [("abort", -signal.SIGABRT), ("exit", 3)])
async def test_a_process_that_ends_itself_in_the_middle_of_a_handler(
    pod: Pod, database: Observer, producer: pgqrs.Producer, how: str, code: int
) -> None:
    await pod.sidecar()
    app, worker_id, message = await _at_work(pod, producer, {"die": how})
    assert await app.ended() == code
    await _replaced(database, worker_id)
    assert (await database.message(message))["consumer_worker_id"] is None


async def test_a_process_that_dies_idle(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    app = await pod.app()
    worker_id = (await app.line(event="started"))["worker_id"]
    app.signal(signal.SIGKILL)
    await _replaced(database, worker_id)


async def test_processes_that_die_together_are_replaced_by_one_row(
    pod: Pod, database: Observer, producer: pgqrs.Producer
) -> None:
    await pod.sidecar()
    crew = [await _at_work(pod, producer, {}) for _ in range(3)]
    for app, _, _ in crew:
        app.signal(signal.SIGKILL)
    await _replaced(database, crew[-1][1])
    for _, worker_id, message in crew:
        assert await database.state(worker_id) == "stopped"
        assert (await database.message(message))["consumer_worker_id"] is None


async def test_one_death_after_the_other(pod: Pod, database: Observer, producer: pgqrs.Producer) -> None:
    """As in a crash loop: each life has a row of its own, and none is left over."""
    await pod.sidecar()
    for _ in range(4):
        app, worker_id, _ = await _at_work(pod, producer, {"die": "exit"})
        await app.ended()
        await _replaced(database, worker_id)
        # What it met is met by the next one again.
        await database.fetch("UPDATE pgqrs_messages SET archived_at = now()")
    assert len(await database.rows(live=False)) == 5


async def test_an_app_whose_event_loop_hangs_is_silent_until_it_turns_again(
    pod: Pod, database: Observer, producer: pgqrs.Producer
) -> None:
    sidecar = await pod.sidecar()
    app = await pod.app()
    worker_id = (await app.line(event="started"))["worker_id"]
    message = await producer.enqueue({"hang": 5.0})
    await sidecar.line(message="process does not answer, its heartbeats pause", worker_id=worker_id)
    silent_since = (await database.row(worker_id))["heartbeat_at"]
    sent = await number(pod, "heartbeats_sent_total")
    assert sent is not None

    async def sent_more() -> bool:
        now = await number(pod, "heartbeats_sent_total")
        return now is not None and now >= sent + 2

    await eventually(sent_more)
    row = await database.row(worker_id)
    assert (row["heartbeat_at"], row["state"]) == (silent_since, "ready")
    assert app.count(event="archived") == 0, "it hung for too short a time to show anything"

    await app.line(event="archived", id=message, archived=True)
    await beaten(database, worker_id)
    done = await database.message(message)
    assert (done["consumer_worker_id"], done["read_ct"]) == (worker_id, 1)
