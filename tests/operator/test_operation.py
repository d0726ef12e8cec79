"""Operators as processes: one leads, and whatever becomes of it another one goes on, and two never act at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from pgqrs import queues
from tests.operator.lease_server import SWALLOWED, LeaseServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pgqrs

pytestmark = pytest.mark.timeout(180)

_CHECKOUT = Path(__file__).parents[2]
_DEADLINE = 60.0


class Operator:
    """A process of `tests.operator.operating_child`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = ""
        self._process = process
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.log += line.decode()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait for its end."""
        async with asyncio.timeout(_DEADLINE):
            code = await self._process.wait()
            await self._reader
        return code

    async def end(self) -> None:
        """Kill it if it still runs, stopped or not."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader


class Site:
    """An API server with operators that are at work on it."""

    def __init__(self, server: LeaseServer, folder: Path) -> None:
        self.server = server
        self._kubeconfig = folder / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "contexts": [context],
            "users": [{"name": "u", "user": {}}],
            "current-context": "c",
        }
        self._kubeconfig.write_text(yaml.safe_dump(config))

    @asynccontextmanager
    async def operator(self, name: str, *words: str) -> AsyncIterator[Operator]:
        """Start an operator."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.operator.operating_child", *words),
            env={
                "PATH": os.environ["PATH"],
                "KUBECONFIG": str(self._kubeconfig),
                "PGQRS_POD_NAME": name,
                "PGQRS_POD_IP": "10.0.0.1",
                "PGQRS_HEALTH_PORT": "0",
                "PGQRS_MANAGE_WEBHOOK": "false",
            },
            cwd=_CHECKOUT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        started = Operator(name, process)
        try:
            yield started
        finally:
            await started.end()

    async def leads(self, operator: Operator) -> None:
        """Wait until it holds the Lease."""
        await self.eventually(lambda: self.server.holder == f"{operator.name}_10.0.0.1", operator)

    async def stands_by(self, operator: Operator) -> None:
        """Wait until it has looked at the Lease."""
        await self.eventually(lambda: self.server.reads.get(operator.name), operator)

    async def declared(self, name: str, operator: Operator) -> None:
        """Declare a queue, and wait until it is there."""
        self.server.put("PgqrsQueue", name)
        await self.eventually(lambda: self.server.reason("PgqrsQueue", name) == "InSync", operator)

    async def eventually(self, condition: Callable[[], object], operator: Operator) -> None:
        try:
            async with asyncio.timeout(_DEADLINE):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            message = f"not within {_DEADLINE} s; {operator.name} said: {operator.log}"
            raise AssertionError(message) from None

    def writers(self, since: int) -> set[str]:
        """Give those that wrote anything but the Lease."""
        return {who for who, _, _ in self.server.writes[since:]}


@pytest.fixture
async def site(tmp_path: Path, dsn: str) -> AsyncIterator[Site]:
    server = LeaseServer()
    await server.start()
    server.put_secret(dsn)
    yield Site(server, tmp_path)
    await server.aclose()


async def test_when_the_leader_is_killed_another_one_goes_on(site: Site) -> None:
    async with site.operator("a") as a:
        await site.leads(a)
        await site.declared("emails", a)
        async with site.operator("b") as b:
            await site.stands_by(b)
            since = len(site.server.writes)
            a.send(signal.SIGKILL)
            assert await a.exit_code() == -signal.SIGKILL
            await site.leads(b)
            await site.declared("letters", b)
            # It found everything as it should be, and wrote only what was new.
            assert site.writers(since) == {"b"}
            assert not [path for _, _, path in site.server.writes[since:] if "emails" in path]


async def test_the_leader_that_ends_hands_over(site: Site) -> None:
    async with site.operator("a") as a, site.operator("b") as b:
        await site.eventually(lambda: site.server.holder, a)
        first, second = (a, b) if site.server.holder == "a_10.0.0.1" else (b, a)
        await site.declared("emails", first)
        await site.stands_by(second)
        assert "this process leads" not in second.log
        first.send(signal.SIGTERM)
        assert await first.exit_code() == 0
        await site.leads(second)
        # It was given back: nobody had to wait until it ran out.
        names = [f"{one.name}_10.0.0.1" for one in (first, second)]
        assert site.server.holders == [names[0], None, names[1]]
        await site.declared("letters", second)
        second.send(signal.SIGTERM)
        assert await second.exit_code() == 0
    assert site.server.holder is None


async def test_who_stands_by_ends_at_once_and_leaves_the_lease_alone(site: Site) -> None:
    site.server.write_lease(holderIdentity="other_10.0.0.2", leaseDurationSeconds=3600)
    async with site.operator("a") as a:
        await site.stands_by(a)
        # It knows all that the leader knows, so that it need not begin with it when that one ends.
        await site.eventually(lambda: site.server.lists.get("a"), a)
        a.send(signal.SIGTERM)
        assert await a.exit_code() == 0
    assert site.server.holder == "other_10.0.0.2"
    assert not site.server.writes


async def test_a_follower_that_can_watch_no_more_ends_instead_of_leading_blindly(site: Site) -> None:
    site.server.write_lease(holderIdentity="other_10.0.0.2", leaseDurationSeconds=3600)
    async with site.operator("a", "watches-end") as a:
        assert await a.exit_code() == 1
        assert "a task that must run for ever has ended" in a.log
    assert site.server.holder == "other_10.0.0.2"


async def test_a_leader_that_was_frozen_ends_when_it_wakes(site: Site, admin: pgqrs.Admin) -> None:
    async with site.operator("a") as a:
        await site.leads(a)
        await site.declared("emails", a)
        async with site.operator("b") as b:
            await site.stands_by(b)
            a.send(signal.SIGSTOP)
            await site.leads(b)
            site.server.change("PgqrsQueue", "emails", spec={"paused": True}, metadata={"generation": 2})
            await site.eventually(lambda: _observed(site, "emails") == 2, b)
            since = len(site.server.writes)
            a.send(signal.SIGCONT)
            assert await a.exit_code() == 1
            assert "LeadershipLostError" in a.log
            assert "a" not in site.writers(since)
            assert site.server.holder == "b_10.0.0.1"
    assert (await queues.get(admin.database, "emails")).policy.paused


async def test_a_leader_that_is_cut_off_ends_before_another_one_begins(site: Site) -> None:
    async with site.operator("a") as a:
        await site.leads(a)
        async with site.operator("b") as b:
            await site.stands_by(b)
            site.server.faults["a"] = SWALLOWED
            assert await a.exit_code() == 1
            assert "could not be renewed" in a.log
            await site.leads(b)
            await site.declared("letters", b)


async def test_a_leader_that_does_not_notice_its_loss_writes_nothing_all_the_same(
    site: Site, admin: pgqrs.Admin
) -> None:
    async with site.operator("a", "hangs") as a:
        await site.leads(a)
        await site.declared("emails", a)
        async with site.operator("b") as b:
            await site.leads(b)
            since = len(site.server.writes)
            await site.declared("letters", b)
            # It goes on, and would have written as well.
            await site.eventually(lambda: "not the leader" in a.log, a)
            b.send(signal.SIGSTOP)
            async with admin.database.transaction() as by_hand:
                await by_hand.execute("UPDATE pgqrs_queues SET paused = true WHERE queue_name = 'emails'")
            listed = _lists(site)
            # Longer than the time between two looks at the rows.
            await site.eventually(lambda: _lists(site) > listed + 40, a)
            assert (await queues.get(admin.database, "emails")).policy.paused
            assert site.writers(since) == {"b"}


def _lists(site: Site) -> int:
    return site.server.requests.count(("GET", "/apis/pgqrs.io/v1alpha1/pgqrsqueues"))


def _observed(site: Site, name: str) -> int:
    found = site.server.get("PgqrsQueue", name) or {}
    generation: int = found.get("status", {}).get("observedGeneration", 0)
    return generation
