"""Who leads: one at a time, whatever goes wrong between a candidate and the API server, and whatever clocks say."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from pgqrs_operator.leadership import TIMING, Leadership, LeadershipLostError, Timing
from pgqrs_operator.leases import LeaseClient
from tests.operator.lease_server import ANSWER_LOST, CANDIDATE, SWALLOWED, LeaseServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Short, and yet longer than this process may be held up.
SHORT = Timing(duration=2.0, deadline=1.4, interval=0.1)
#: Nobody waits for this one.
LONG = Timing(duration=600.0, deadline=400.0, interval=0.1)
_DEADLINE = 30.0


@pytest.fixture
async def server() -> AsyncIterator[LeaseServer]:
    made = LeaseServer()
    await made.start()
    yield made
    await made.aclose()


@asynccontextmanager
async def candidate(server: LeaseServer, name: str, timing: Timing = SHORT) -> AsyncIterator[Leadership]:
    async with ApiClient(Configuration(host=f"http://127.0.0.1:{server.port}")) as client:
        client.set_default_header(CANDIDATE, name)
        yield Leadership(LeaseClient(client, "pgqrs-system", "pgqrs-operator"), f"{name}_10.0.0.1", timing)


@asynccontextmanager
async def keeping(leader: Leadership) -> AsyncIterator[asyncio.Task[None]]:
    """Let a leader renew its Lease; it dies at the end of the block."""
    task = asyncio.create_task(leader.keep())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, LeadershipLostError):
            await task


@asynccontextmanager
async def waiting(follower: Leadership) -> AsyncIterator[asyncio.Task[None]]:
    """Let a follower wait for the Lease."""
    task = asyncio.create_task(follower.acquire())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def next_write(server: LeaseServer) -> None:
    """Wait until the Lease is written once more."""
    written = server.written_at
    await eventually(lambda: server.written_at > written)


async def next_try(leadership: Leadership) -> None:
    """Wait until a candidate tries once more."""
    tried = leadership.tried_at
    await eventually(lambda: leadership.tried_at > tried)


async def next_reads(server: LeaseServer, name: str, count: int) -> None:
    """Wait until a candidate has read the Lease so many times more."""
    seen = server.reads.get(name, 0)
    await eventually(lambda: server.reads.get(name, 0) >= seen + count)


async def soon(leadership: Leadership) -> None:
    async with asyncio.timeout(_DEADLINE):
        await leadership.acquire()


async def lost(task: asyncio.Task[None]) -> str:
    """Wait until a leader knows that it is none any more; give its words."""
    async with asyncio.timeout(_DEADLINE):
        with pytest.raises(LeadershipLostError) as caught:
            await task
    return str(caught.value)


def test_a_dead_leader_is_replaced_in_time_and_a_living_one_may_fail_once() -> None:
    # A follower sees a renewal at most one look after it, and then waits for the duration.
    assert TIMING.duration + TIMING.look < 15
    # A request that is lost takes an interval, and another one follows before the deadline.
    assert 2 * TIMING.interval < TIMING.deadline
    assert TIMING.deadline < TIMING.duration
    assert float(int(TIMING.duration)) == TIMING.duration


async def test_of_two_candidates_one_leads_for_as_long_as_it_lives(server: LeaseServer) -> None:
    async with candidate(server, "a") as a, candidate(server, "b") as b:
        async with waiting(a) as first, waiting(b) as second:
            await eventually(lambda: first.done() or second.done())
            await eventually(lambda: all(server.reads.get(name) for name in "ab"))
            leader, other, waits = (a, b, second) if first.done() else (b, a, first)
            assert leader.leads
            assert leader.informed
            async with keeping(leader) as keeps:
                name = "b" if leader is a else "a"
                seen = server.reads[name]
                # For much longer than the Lease lasts.
                while server.reads[name] < seen + 40:
                    assert not other.leads
                    assert not waits.done()
                    assert not keeps.done()
                    await asyncio.sleep(0.01)
                assert leader.leads
        assert server.holder == f"{'a' if leader is a else 'b'}_10.0.0.1"
    assert other.informed
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


async def test_the_lease_of_a_dead_leader_runs_out_before_another_takes_it(server: LeaseServer) -> None:
    async with candidate(server, "a") as a, candidate(server, "b") as b:
        await soon(a)
        async with waiting(b) as follows, keeping(a):
            await next_write(server)
            assert not follows.done()
        # Dead: nothing of it runs any more.
        await soon(b)
        assert server.holder == "b_10.0.0.1"
        assert a.valid_until <= server.taken_at
        assert not a.leads
        assert b.leads


@pytest.mark.parametrize("fault", [403, 409, 500, 503, SWALLOWED, ANSWER_LOST])
async def test_a_leader_that_cannot_renew_stops_before_another_begins(server: LeaseServer, fault: int | str) -> None:
    async with candidate(server, "a") as a, candidate(server, "b") as b:
        await soon(a)
        async with waiting(b) as follows, keeping(a) as keeps:
            await eventually(lambda: server.reads.get("b", 0) > 0)
            server.faults["a"] = fault
            if fault == ANSWER_LOST:
                # What it writes arrives: it is the one that cannot know, and others wait for it.
                await eventually(lambda: keeps.done() or server.reads.get("b", 0) > 5)
            assert "renewed" in await lost(keeps)
            assert not a.leads
            async with asyncio.timeout(_DEADLINE):
                await follows
        assert a.valid_until <= server.taken_at
        assert b.leads


async def test_one_renewal_that_fails_is_no_loss(server: LeaseServer) -> None:
    timing = Timing(duration=60.0, deadline=40.0, interval=0.1)
    async with candidate(server, "a", timing) as a:
        await soon(a)
        async with keeping(a) as keeps:
            for fault in (500, SWALLOWED, ANSWER_LOST, 409):
                server.faults["a"] = fault
                await next_try(a)
                await next_try(a)
                server.faults.clear()
                await next_write(server)
            assert a.leads
            assert not keeps.done()
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


async def test_whoever_writes_a_note_on_the_lease_takes_it_from_nobody_and_prolongs_nothing(
    server: LeaseServer,
) -> None:
    async with candidate(server, "a") as a, candidate(server, "b") as b:
        await soon(a)
        async with waiting(b) as follows:
            async with keeping(a) as keeps:
                for number in range(5):
                    server.annotate_lease(str(number))
                    await next_write(server)
                assert a.leads
                assert not keeps.done()
            number = 5
            async with asyncio.timeout(_DEADLINE):
                while not follows.done():
                    if server.holder == "a_10.0.0.1":
                        server.annotate_lease(str(number := number + 1))
                    await asyncio.sleep(0.3)
        assert b.leads
        assert a.valid_until <= server.taken_at


@pytest.mark.parametrize("year", [1999, 2099])
async def test_clocks_of_others_do_not_matter(server: LeaseServer, year: int) -> None:
    def renew(second: int) -> None:
        stamp = f"{year}-01-01T00:00:{second:02}.000000Z"
        server.write_lease(
            holderIdentity="other_10.0.0.2",
            acquireTime=stamp,
            renewTime=stamp,
            leaseDurationSeconds=2,
            leaseTransitions=7,
        )

    renew(0)
    async with candidate(server, "a") as a, waiting(a) as follows:
        # For longer than the Lease lasts.
        for second in range(1, 6):
            await next_reads(server, "a", 6)
            renew(second)
            assert not follows.done()
        renewed = server.written_at
        async with asyncio.timeout(_DEADLINE):
            await follows
        assert server.taken_at >= renewed + SHORT.duration
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 8


async def test_a_holder_that_asks_for_a_longer_time_gets_it(server: LeaseServer) -> None:
    """It may be of another version of the operator."""
    async with (
        candidate(server, "a", Timing(duration=6.0, deadline=5.0, interval=0.1)) as a,
        candidate(server, "b") as b,
    ):
        await soon(a)
        await soon(b)
        assert a.valid_until <= server.taken_at


async def test_who_ends_hands_over_at_once(server: LeaseServer) -> None:
    async with candidate(server, "a", LONG) as a, candidate(server, "b", LONG) as b:
        await soon(a)
        async with waiting(b) as follows:
            await eventually(lambda: server.reads.get("b", 0) > 1)
            assert not follows.done()
            await a.release()
            assert not a.leads
            async with asyncio.timeout(_DEADLINE):
                await follows
        assert b.leads
        # Late, and no longer its own to give back.
        await a.release()
        assert server.holder == "b_10.0.0.1"


async def test_a_lease_that_cannot_be_given_back_is_left_to_time(server: LeaseServer) -> None:
    async with candidate(server, "a", LONG) as a:
        await soon(a)
        server.faults["a"] = SWALLOWED
        async with asyncio.timeout(_DEADLINE):
            await a.release()
        assert not a.leads
    assert server.holder == "a_10.0.0.1"


async def test_a_container_that_is_started_again_need_not_wait_for_its_own_lease(server: LeaseServer) -> None:
    async with candidate(server, "a", LONG) as before, candidate(server, "a", LONG) as after:
        await soon(before)
        await soon(after)
        assert after.leads
        # Should the former one live all the same, it is out.
        async with keeping(before) as keeps, keeping(after) as goes_on:
            assert "held by" in await lost(keeps)
            assert not before.leads
            assert not goes_on.done()
            assert after.leads


async def test_a_lease_that_is_deleted_is_lost(server: LeaseServer) -> None:
    async with candidate(server, "a", LONG) as a:
        await soon(a)
        async with keeping(a) as keeps:
            server.lease = None
            assert "gone" in await lost(keeps)
        assert not a.leads
        await soon(a)
        assert a.leads


async def test_an_answer_that_is_lost_makes_nobody_wait_for_himself(server: LeaseServer) -> None:
    server.faults["a"] = ANSWER_LOST
    async with candidate(server, "a", LONG) as a, waiting(a) as candidacy:
        await eventually(lambda: server.holder == "a_10.0.0.1")
        server.faults.clear()
        async with asyncio.timeout(_DEADLINE):
            await candidacy
        assert a.leads


async def test_a_lease_without_a_holder_is_anybodys(server: LeaseServer) -> None:
    """As the chart brings it."""
    server.lease = {"metadata": {"name": "pgqrs-operator", "resourceVersion": "1"}}
    async with candidate(server, "a", LONG) as a:
        assert a.leader_address is None
        await soon(a)
        assert a.leader_address == "10.0.0.1"
    async with candidate(server, "b", LONG) as b, waiting(b):
        await eventually(lambda: b.leader_address == "10.0.0.1")


async def test_without_the_right_to_the_lease_nobody_leads_and_the_log_says_so_once(
    server: LeaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults["a"] = 403
    async with candidate(server, "a") as a, waiting(a):
        for _ in range(5):
            await next_try(a)
        assert not a.informed
        assert not a.leads
    said = [record for record in caplog.records if record.name == "pgqrs_operator.leadership"]
    assert len(said) == 1
    assert "HTTP 403" in said[0].__dict__["error"]
