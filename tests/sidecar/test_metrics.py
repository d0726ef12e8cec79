"""The numbers: in the form that Prometheus reads, right, and nothing but numbers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.sidecar.processes import HOSTNAME, POD_UID, QUEUE, TOKEN, Pod, eventually
from tests.support.postgres import PASSWORD, PostgresServer

if TYPE_CHECKING:
    from tests.sidecar.conftest import Observer

_PREFIX = "pgqrs_sidecar_"


async def _numbers(pod: Pod) -> dict[str, float]:
    """All samples by their names without the prefix, and with the value of their label in brackets."""
    status, text = await pod.get("/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith(_PREFIX)
        assert family.documentation
        assert family.type in {"counter", "gauge"}
        for sample in family.samples:
            label = "".join(f"[{value}]" for value in sample.labels.values())
            found[sample.name.removeprefix(_PREFIX) + label] = sample.value
    return found


async def _becomes(pod: Pod, **expected: float) -> None:
    """Wait until these numbers are shown; `a__b` stands for `a[b]`."""
    wanted = {}
    for name, number in expected.items():
        metric, _, label = name.partition("__")
        wanted[f"{metric}[{label}]" if label else metric] = number

    async def shown() -> bool:
        numbers = await _numbers(pod)
        return wanted.items() <= numbers.items()

    try:
        await eventually(shown)
    except AssertionError as error:
        message = f"{wanted} not in {await _numbers(pod)}"
        raise AssertionError(message) from error


async def test_a_pod_without_a_process_shows_its_row(pod: Pod) -> None:
    await pod.sidecar()
    await _becomes(pod, registered=1, sessions=0, workers__ready=1, workers__suspended=0, database_up=1)
    await _becomes(pod, drain_begun=0, drain_done=0, sessions_ended_total__died=0, messages_leased=0)
    numbers = await _numbers(pod)
    assert "drain_duration_seconds" not in numbers
    assert numbers["database_failing_seconds"] == 0
    assert 1e6 < numbers["process_resident_memory_bytes"] < 45e6, "a sidecar is promised to cost no more"
    assert 0 < numbers["process_cpu_seconds_total"] < 100


async def test_sessions_and_what_they_hold_are_counted(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session() as dying, pod.session(pid=8) as leaving:
        await dying.welcome()
        worker_id = (await leaving.welcome())["worker_id"]
        await database.lease(worker_id)
        await database.lease(worker_id)
        await _becomes(pod, sessions=2, sessions_opened_total=2, workers__ready=2, messages_leased=2)
        leaving.send("goodbye")
        assert await leaving.next() == {"type": "bye"}
        await _becomes(pod, sessions=1, sessions_ended_total__goodbye=1, workers__ready=1, messages_leased=0)
        assert (await _numbers(pod))["messages_released_total[process ended]"] == 2
    await _becomes(pod, sessions=0, sessions_ended_total__died=1, sessions_opened_total=2)
    async with pod.session() as session:
        await session.welcome()
        session.write(b"this is not JSON\n")
        await session.next()
    await _becomes(pod, sessions_ended_total__protocol=1)
    async with pod.session(token="wrong") as session:
        await session.next()
    await _becomes(pod, sessions_refused_total__forbidden=1, sessions_opened_total=3)
    async with pod.session(pid=9) as first:
        worker_id = (await first.welcome())["worker_id"]
        async with pod.session(pid=9, worker_id=worker_id) as second:
            await second.welcome()
            await _becomes(pod, sessions=1, sessions_ended_total__superseded=1, sessions_opened_total=5)
            await _becomes(pod, sessions_silent=1)


async def test_a_drain_is_shown(pod: Pod) -> None:
    await pod.sidecar()
    async with pod.session() as session:
        await session.welcome()
        await pod.get("/drain?container=nonsense", token=TOKEN)
        await _becomes(pod, container_drains_total=1, drain_begun=0)
        hook = asyncio.create_task(pod.get("/drain", token=TOKEN))
        await session.next()
        await _becomes(pod, drain_begun=1, drain_done=0, workers__interrupted=1)
        assert 0 < (await _numbers(pod))["drain_duration_seconds"] < 15
        session.send("drained")
        await hook
        await _becomes(pod, drain_done=1, workers__suspended=1)
        took = (await _numbers(pod))["drain_duration_seconds"]
        assert (await _numbers(pod))["drain_duration_seconds"] == took > 0


async def test_an_outage_is_shown(own_postgres: PostgresServer, own_pod: Pod) -> None:
    sidecar = await own_pod.sidecar()

    async def beaten() -> bool:
        return "heartbeat_age_seconds" in await _numbers(own_pod)

    await eventually(beaten)
    numbers = await _numbers(own_pod)
    assert numbers["heartbeats_sent_total"] >= 1
    assert numbers["heartbeats_failed_total"] == 0
    await asyncio.to_thread(own_postgres.stop)
    await sidecar.line(message="database trouble begins")
    await _becomes(own_pod, database_up=0, registered=1)
    first = await _numbers(own_pod)

    async def older() -> bool:
        numbers = await _numbers(own_pod)
        names = ("database_failing_seconds", "heartbeat_age_seconds")
        return all(numbers[name] > max(first[name], 0.5) for name in names)

    await eventually(older)
    assert (await _numbers(own_pod))["heartbeats_failed_total"] >= 1
    await asyncio.to_thread(own_postgres.start)
    await _becomes(own_pod, database_up=1, database_failing_seconds=0)


async def test_whoever_asks_learns_numbers_only(pod: Pod) -> None:
    await pod.sidecar()
    async with pod.session(container="canary-container") as session:
        await session.welcome()
        _, text = await pod.get("/metrics")
    for secret in (TOKEN, PASSWORD, QUEUE, HOSTNAME, POD_UID, "web-1", "shop", "canary", "127.0.0.1"):
        assert secret not in text
