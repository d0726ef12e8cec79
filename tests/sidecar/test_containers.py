"""The hook of one app container: its processes drain, the pod goes on, unless the pod's own hook says that it ends."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.sidecar.processes import TOKEN, Pod, RawSession, eventually

if TYPE_CHECKING:
    import pgqrs
    from tests.sidecar.conftest import Observer


def _hook(pod: Pod, container: str | None = None) -> asyncio.Task[tuple[int, str]]:
    """Call `/drain` as the kubelet does for this container, or for the sidecar's own."""
    path = "/drain" if container is None else f"/drain?container={container}"
    return asyncio.create_task(pod.get(path, token=TOKEN))


async def _result(hook: asyncio.Task[tuple[int, str]]) -> dict[str, Any]:
    status, text = await hook
    assert status == 200
    found: dict[str, Any] = json.loads(text)
    return found


async def _drain(session: RawSession) -> None:
    message = await session.next()
    assert message is not None
    assert message["type"] == "drain"
    assert 14 < message["seconds"] <= 15


async def _undisturbed(session: RawSession) -> None:
    """Nothing was said to this process since its welcome."""
    session.send("goodbye")
    assert await session.next() == {"type": "bye"}


async def test_one_container_drains_and_the_rest_of_the_pod_goes_on(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session(container="app") as app, pod.session(container="helper", pid=8) as helper:
        app_id = (await app.welcome())["worker_id"]
        helper_id = (await helper.welcome())["worker_id"]
        hook = _hook(pod, "app")
        await _drain(app)
        assert await app.next() == {"type": "state", "state": "interrupted"}
        app.send("drained")
        result = await _result(hook)
        assert (result["drained"], result["leased"], result["busy"]) == (True, 0, 0)

        rows = {row["id"]: (row["state"], row["terminating"]) for row in await database.rows()}
        assert rows == {app_id: ("interrupted", False), helper_id: ("ready", False)}
        assert not (await pod.state())["draining"]
        await _undisturbed(helper)


async def test_the_container_that_is_started_next_gets_a_row_as_usual(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session(container="app") as app:
        first = (await app.welcome())["worker_id"]
        hook = _hook(pod, "app")
        await _drain(app)
        app.send("drained")
        assert (await _result(hook))["drained"]
    async with pod.session(container="app") as app:
        welcome = await app.welcome()
        assert welcome["worker_id"] != first
        assert welcome["state"] == "ready"
        await _undisturbed(app)
    assert await database.state(first) == "stopped"

    # And once more, which an irrevocable mark of the first time would show.
    async with pod.session(container="app") as app:
        await app.welcome()
        hook = _hook(pod, "app")
        await _drain(app)
        app.send("drained")
        assert (await _result(hook))["drained"]


async def test_a_container_drain_waits_for_what_its_rows_hold(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session(container="app") as app, pod.session(container="helper", pid=8) as helper:
        message = await database.lease((await app.welcome())["worker_id"])
        # What another container holds concerns nobody here.
        await database.lease((await helper.welcome())["worker_id"])
        hook = _hook(pod, "app")
        await _drain(app)
        app.send("drained")

        async def heard() -> bool:
            return any(worker["drained"] for worker in (await pod.state())["workers"])

        await eventually(heard)
        assert not hook.done()
        await database.fetch("UPDATE pgqrs_messages SET archived_at = now() WHERE id = $1", message)
        result = await _result(hook)
        assert (result["drained"], result["leased"]) == (True, 0)


async def test_a_process_that_dies_in_the_drain_of_its_container_frees_its_messages(
    pod: Pod, database: Observer
) -> None:
    await pod.sidecar()
    async with pod.session(container="app") as app:
        message = await database.lease((await app.welcome())["worker_id"])
        hook = _hook(pod, "app")
        await _drain(app)
    assert (await _result(hook))["drained"]
    assert (await database.message(message))["consumer_worker_id"] is None


async def test_when_the_time_is_up_the_message_stays_with_the_process(pod: Pod, database: Observer) -> None:
    await pod.sidecar(PGQRS_DRAIN_SECONDS="0.5")
    async with pod.session(container="app") as app:
        worker_id = (await app.welcome())["worker_id"]
        message = await database.lease(worker_id)
        result = await _result(_hook(pod, "app"))
        assert (result["drained"], result["leased"], result["busy"]) == (False, 1, 1)
        assert (await database.message(message))["consumer_worker_id"] == worker_id
        row = await database.row(worker_id)
        assert (row["state"], row["terminating"]) == ("interrupted", False)


async def test_a_process_that_comes_in_the_drain_of_its_container_is_told(pod: Pod) -> None:
    await pod.sidecar()
    async with pod.session(container="app") as app:
        await app.welcome()
        hook = _hook(pod, "app")
        await _drain(app)
        async with pod.session(container="app", pid=8) as late:
            await late.welcome()
            await _drain(late)
            app.send("drained")

            async def heard() -> bool:
                return any(worker["drained"] for worker in (await pod.state())["workers"])

            await eventually(heard)
            assert not hook.done()
            late.send("drained")
            assert (await _result(hook))["drained"]


@pytest.mark.parametrize("container_first", [True, False])
async def test_at_the_end_of_the_pod_all_hooks_are_answered_at_the_end_of_its_drain(
    pod: Pod, database: Observer, *, container_first: bool
) -> None:
    await pod.sidecar()
    async with pod.session(container="app") as app, pod.session(container="helper", pid=8) as helper:
        await app.welcome()
        await helper.welcome()
        if container_first:
            hooks = [_hook(pod, "app")]
            await _drain(app)
            hooks.append(_hook(pod))
        else:
            hooks = [_hook(pod)]
            await _drain(app)
            hooks.append(_hook(pod, "app"))
        app.send("drained")
        await _drain(helper)

        async def marked() -> bool:
            return all(row["terminating"] for row in await database.rows())

        await eventually(marked)
        # One that has nothing to do with sessions joins it as well.
        hooks.append(_hook(pod, "nonsense"))
        done, _ = await asyncio.wait(hooks, timeout=2.5)
        assert not done
        helper.send("drained")
        answers = [await hook for hook in hooks]
        assert {status for status, _ in answers} == {200}
        assert len({text for _, text in answers}) == 1
        assert json.loads(answers[0][1])["drained"]
        assert {row["state"] for row in await database.rows()} == {"suspended"}


async def test_a_container_without_sessions_is_answered_and_nothing_happens(pod: Pod, database: Observer) -> None:
    await pod.sidecar()
    async with pod.session(container="app") as app, pod.session(container=None, pid=8) as nameless:
        await app.welcome()
        await nameless.welcome()
        hooks = [_hook(pod, container) for container in ("nonsense", "", "None", "%00", "x" * 4000)]
        assert [(await _result(hook))["drained"] for hook in hooks] == [True] * len(hooks)
        assert {(row["state"], row["terminating"]) for row in await database.rows()} == {("ready", False)}
        assert not (await pod.state())["draining"]
        await _undisturbed(app)
        await _undisturbed(nameless)


async def test_a_container_drain_asks_for_the_token(pod: Pod) -> None:
    await pod.sidecar()
    async with pod.session(container="app") as app:
        await app.welcome()
        for token in (None, "", "wrong"):
            assert (await pod.get("/drain?container=app", token=token))[0] == 403
        await _undisturbed(app)


async def test_of_two_real_apps_one_finishes_and_the_other_goes_on(
    pod: Pod, database: Observer, producer: pgqrs.Producer
) -> None:
    await pod.sidecar()
    app = await pod.app(handler_seconds=1.5, container="app")
    first = await producer.enqueue({"n": 1})
    await app.line(event="leased", id=first)
    helper = await pod.app(container="helper")

    assert (await _result(_hook(pod, "app")))["drained"]
    await app.line(event="archived", id=first, archived=True)
    await app.line(event="drained")
    assert (await database.message(first))["read_ct"] == 1

    others = await producer.enqueue_batch([{"n": number} for number in range(2, 12)])
    for other in others:
        await helper.line(event="archived", id=other, archived=True)
    assert app.count(event="leased") == 1
    # Its container is started again.
    again = await pod.app(container="app")
    assert (await again.line(event="started"))["worker_id"] != (await app.line(event="started"))["worker_id"]
