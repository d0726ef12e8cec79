"""Producers, consumers and everything that happens to them, in any order, against a model, on a real PostgreSQL.

Hypothesis chooses the steps. After each of them the rows have to be what the model says: nothing is lost, nothing is
held by two at once, nothing is stuck, paused means paused. Nobody sleeps: leases and heartbeats are an hour long, and
what has to run out has its time moved in its row. The seed is printed; `PGQRS_TEST_STATE_MACHINE_SEED` runs it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import asyncpg
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import pgqrs
from pgqrs import WorkerStatus, fleet, lifecycle, worker
from pgqrs.database import Database
from pgqrs.models import WorkerId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator

T = TypeVar("T")

_SEED = "PGQRS_TEST_STATE_MACHINE_SEED"
_LEAST_STEPS = 2000
_MOST_RUNS = 4
QUEUE = "emails"
READ_LIMIT = 2
HOUR = timedelta(hours=1)
POLICY = pgqrs.QueuePolicy(lease_duration=HOUR, heartbeat_timeout=HOUR, read_limit=READ_LIMIT)
#: Few names, so that processes often want the same one.
HOSTS = ("a", "b", "c")
MOST_PROCESSES = 8
WORKING = (WorkerStatus.READY, WorkerStatus.POLLING)
#: What happens in every run, or the machine has stopped looking where it hurts.
_MUST_HAPPEN = ("delivered again", "name taken over", "fenced out", "refused while paused", "cut in the middle", "dead")


class State(Enum):
    """What has become of a message."""

    WAITING = "waiting"
    LEASED = "leased"
    ARCHIVED = "archived"
    DELETED = "deleted"
    DEAD = "dead"


@dataclass(slots=True)
class Letter:
    """A message as the model knows it."""

    id: int
    state: State = State.WAITING
    holder: int | None = None
    reads: int = 0
    #: Its time has come: its delay is over, or its lease ran out.
    due: bool = True

    @property
    def live(self) -> bool:
        return self.state in (State.WAITING, State.LEASED)


@dataclass(slots=True)
class Row:
    """A worker's row as the model knows it."""

    id: int
    name: str
    status: WorkerStatus = WorkerStatus.READY
    #: Its heartbeat is older than the timeout.
    silent: bool = False

    @property
    def alive(self) -> bool:
        return self.status is not WorkerStatus.STOPPED and not self.silent


@dataclass(slots=True, eq=False)
class Process:
    """A process with a worker and connections of its own."""

    admin: pgqrs.Admin
    client: pgqrs.Producer | pgqrs.Consumer
    label: str
    worker_id: int = 0

    def __str__(self) -> str:
        return f"worker {self.worker_id}"


@dataclass(slots=True)
class World:
    """Everything that the model knows."""

    letters: dict[int, Letter] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    paused: bool = False

    def due(self) -> set[int]:
        """What somebody who asks now has to be given."""
        return {letter.id for letter in self.letters.values() if letter.live and letter.due}

    def held(self, worker_id: int) -> list[Letter]:
        return [one for one in self.letters.values() if one.state is State.LEASED and one.holder == worker_id]

    def works(self, worker_id: int) -> bool:
        return self.rows[worker_id].status in WORKING and not self.paused

    def free(self, letter: Letter, *, due: bool = True) -> None:
        letter.state, letter.holder, letter.due = State.WAITING, None, due

    def stop(self, worker_id: int) -> int:
        """Stop a row and give how much it held."""
        row = self.rows[worker_id]
        if row.status is WorkerStatus.STOPPED:
            return 0
        row.status = WorkerStatus.STOPPED
        held = self.held(worker_id)
        for letter in held:
            self.free(letter)
        return len(held)


@dataclass(slots=True)
class Fetched:
    """What came of several that fetched at the same moment."""

    #: What was to be had, by then or a moment later.
    due: set[int]
    #: By worker who still has it.
    by: dict[int, list[int]] = field(default_factory=dict)
    #: What a worker was given that was stopped right after.
    taken_back: set[int] = field(default_factory=set)


class Machine(RuleBasedStateMachine):
    """The steps, each with what the model says must come of it."""

    dsn: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]
    control: ClassVar[asyncpg.Connection]
    #: For looking at other sessions: within a transaction `pg_stat_activity` never changes.
    watch: ClassVar[asyncpg.Connection]
    #: What an operator or an administrator would use.
    outside: ClassVar[pgqrs.Admin]
    steps: ClassVar[int] = 0
    happened: ClassVar[Counter[str]] = Counter()
    _processes_ever: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.processes: list[Process] = []
        #: Everybody who was ever started and may still have connections.
        self.open: list[Process] = []
        self.failed = False
        self.history: list[str] = []
        self.run(self._begin())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a step to its end in the machine's own loop."""
        try:
            return self.loop.run_until_complete(asyncio.wait_for(work, 30))
        except BaseException as error:
            if not self.failed:
                # What raced may come out otherwise the next time, and then hypothesis has no steps to show.
                error.add_note("\n".join(["The steps were:", *self.history]))
            self.failed = True
            raise

    def step(self, act: Callable[..., Coroutine[Any, Any, None]], *args: Any, **options: Any) -> None:
        """Run a rule's step and count it; where nobody is there to take it, nothing happens.

        No rule has a precondition: what a cut or a race leads to is chance, and hypothesis wants to choose the same
        steps again whatever came of them.
        """
        if None not in args:
            Machine.steps += 1
            words = [act.__name__.strip("_"), *map(str, args), *(f"{name}={value}" for name, value in options.items())]
            self.history.append("  " + " ".join(words))
            self.run(act(*args, **options))

    async def _begin(self) -> None:
        await self.control.execute("TRUNCATE pgqrs_queues, pgqrs_workers, pgqrs_messages CASCADE")
        await self.outside.create_queue(QUEUE, POLICY)
        # Something to do from the first step on.
        await self._start("a", 1, consumes=False, replace=False)
        await self._start("b", 1, consumes=True, replace=False)
        await self._send(self.processes[0], 3, delayed=False)

    # -- who takes part ------------------------------------------------------------------------------------------------

    @rule(host=st.sampled_from(HOSTS), consumes=st.booleans(), replace=st.booleans())
    def start_under_a_name(self, host: str, *, consumes: bool, replace: bool) -> None:
        self.step(self._start_another, host, consumes=consumes, replace=replace)

    @rule(consumes=st.booleans())
    def start_under_any_number(self, *, consumes: bool) -> None:
        self.step(self._start_another, "", consumes=consumes, replace=False)

    async def _start_another(self, host: str, *, consumes: bool, replace: bool) -> None:
        if len(self.processes) < MOST_PROCESSES:
            await self._start(host or "free", 1 if host else None, consumes=consumes, replace=replace)

    async def _start(self, host: str, port: int | None, *, consumes: bool, replace: bool) -> None:
        process = self._process(host, port, consumes=consumes, replace=replace)
        holder = next((row for row in self.world.rows.values() if row.name == f"{host}:{port}"), None)
        if holder is not None and holder.alive and not replace:
            with pytest.raises(pgqrs.WorkerAlreadyActiveError):
                await process.client.start()
            await self._forget(process)
            return
        process.worker_id = await process.client.start()
        assert process.worker_id not in self.world.rows, "a new row, never an old id again"
        if holder is not None:
            Machine.happened["name taken over"] += holder.status is not WorkerStatus.STOPPED
            self.world.stop(holder.id)
            holder.name += f"#{holder.id}"
        name = await self.control.fetchval("SELECT name FROM pgqrs_workers WHERE id = $1", process.worker_id)
        for other in self.world.rows.values():
            if other.name == name:
                # A free number is one that nobody alive or silent holds; who is stopped gives its name away.
                assert other.status is WorkerStatus.STOPPED
                other.name += f"#{other.id}"
        self.world.rows[process.worker_id] = Row(process.worker_id, name)
        self.processes.append(process)

    def _process(self, host: str, port: int | None, *, consumes: bool, replace: bool) -> Process:
        Machine._processes_ever += 1
        label = f"process {Machine._processes_ever}"
        admin = pgqrs.Admin(self.dsn)
        # One connection, under a name by which it is found on the server.
        admin.database = Database(self.dsn, max_connections=1, application_name=label)
        kind = pgqrs.Consumer if consumes else pgqrs.Producer
        process = Process(admin, kind(admin, QUEUE, host, port, replace=replace), label)
        self.open.append(process)
        return process

    async def _forget(self, process: Process) -> None:
        """Let go of what this Python holds of a process, without a word to the database."""
        await process.admin.aclose()
        with contextlib.suppress(pgqrs.PgqrsError):
            await process.client.aclose()
        self.open.remove(process)
        if process in self.processes:
            self.processes.remove(process)

    @rule(which=st.integers(0, 99))
    def end_cleanly(self, which: int) -> None:
        self.step(self._end, self._pick(which))

    async def _end(self, process: Process) -> None:
        await process.client.aclose()
        self.world.stop(process.worker_id)
        await self._forget(process)

    @rule(which=st.integers(0, 99))
    def disappear(self, which: int) -> None:
        """The process is gone and nobody knows."""
        self.step(self._disappear, self._pick(which))

    async def _disappear(self, process: Process) -> None:
        async with process.admin.database.connection() as connection:
            transport = _transport(connection)
        transport.abort()
        await self._forget(process)

    @rule(which=st.integers(0, 99))
    def drain_at_once(self, which: int) -> None:
        self.step(self._drain, self._pick(which))

    async def _drain(self, process: Process) -> None:
        released = await process.client.drain(timedelta())
        assert released == self.world.stop(process.worker_id)
        await self._end(process)

    # -- messages ------------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 99), count=st.integers(1, 4), delayed=st.booleans())
    def send(self, which: int, count: int, *, delayed: bool) -> None:
        self.step(self._send, self._pick(which, pgqrs.Producer), count, delayed=delayed)

    async def _send(self, process: Process, count: int, *, delayed: bool) -> None:
        assert isinstance(process.client, pgqrs.Producer)
        sent = await process.client.enqueue_batch(list(range(count)), delay=HOUR if delayed else timedelta())
        assert len(sent) == count
        for message_id in sent:
            assert message_id not in self.world.letters
            self.world.letters[message_id] = Letter(message_id, due=not delayed)

    @rule(which=st.integers(0, 99), limit=st.integers(1, 5))
    def fetch(self, which: int, limit: int) -> None:
        self.step(self._fetch, self._pick(which, pgqrs.Consumer), limit)

    async def _fetch(self, process: Process, limit: int) -> None:
        assert isinstance(process.client, pgqrs.Consumer)
        row = self.world.rows[process.worker_id]
        if row.status is WorkerStatus.STOPPED:
            with pytest.raises(pgqrs.WorkerReplacedError):
                await process.client.dequeue(limit)
            Machine.happened["fenced out"] += 1
            return
        in_order = await self._in_order()
        assert set(in_order) == self.world.due(), "neither stuck nor early"
        messages = await process.client.dequeue(limit)
        if not self.world.works(process.worker_id):
            assert messages == []
            Machine.happened["refused while paused"] += bool(in_order)
            return
        row.silent = False
        chosen = [self.world.letters[message_id] for message_id in in_order[:limit]]
        expected = [letter.id for letter in chosen if letter.reads < READ_LIMIT]
        assert [message.id for message in messages] == expected
        for letter in chosen:
            self._leased(letter, process.worker_id)
        assert [message.read_ct for message in messages] == [self.world.letters[one].reads for one in expected]

    def _leased(self, letter: Letter, worker_id: int) -> None:
        """Note that a worker that fetched came by this message."""
        if letter.reads >= READ_LIMIT:
            letter.state, letter.holder = State.DEAD, None
            Machine.happened["dead"] += 1
            return
        Machine.happened["delivered again"] += letter.reads > 0
        letter.state, letter.holder, letter.due = State.LEASED, worker_id, False
        letter.reads += 1

    @rule(limit=st.integers(1, 5))
    def everybody_fetches(self, limit: int) -> None:
        """One after the other, also those that are paused or fenced out."""
        self.step(self._everybody, limit)

    async def _everybody(self, limit: int) -> None:
        for process in self._of(pgqrs.Consumer):
            await self._fetch(process, limit)

    @rule(
        which=st.integers(0, 99),
        what=st.integers(0, 99),
        verb=st.sampled_from(["archive", "delete", "release", "release later", "extend"]),
        own=st.booleans(),
    )
    def finish(self, which: int, what: int, verb: str, *, own: bool) -> None:
        """Do something with a message, its own one or any: only the holder of the lease may."""
        process = self._pick(which, pgqrs.Consumer)
        held = self.world.held(process.worker_id) if own and process else []
        self.step(self._finish, process, _choose(held or self.world.letters.values(), what), verb)

    async def _finish(self, process: Process, letter: Letter, verb: str) -> None:
        client = process.client
        assert isinstance(client, pgqrs.Consumer)
        calls: dict[str, Callable[[], Awaitable[bool]]] = {
            "archive": lambda: client.archive(letter.id),
            "delete": lambda: client.delete(letter.id),
            "release": lambda: client.release(letter.id),
            "release later": lambda: client.release(letter.id, delay=HOUR),
            "extend": lambda: client.extend(letter.id, HOUR),
        }
        if self.world.rows[process.worker_id].status is WorkerStatus.STOPPED:
            with pytest.raises(pgqrs.WorkerReplacedError):
                await calls[verb]()
            Machine.happened["fenced out"] += 1
            return
        own = letter.state is State.LEASED and letter.holder == process.worker_id
        assert await calls[verb]() is own
        if own:
            self._finished(letter, verb)

    def _finished(self, letter: Letter, verb: str) -> None:
        match verb:
            case "archive":
                letter.state, letter.due = State.ARCHIVED, False
            case "delete":
                letter.state = State.DELETED
            case "extend":
                letter.due = False
            case _:
                self.world.free(letter, due=verb == "release")

    @rule(what=st.integers(0, 99))
    def time_passes_for_a_message(self, what: int) -> None:
        """Its lease runs out, or its delay is over."""
        later = [letter for letter in self.world.letters.values() if letter.live and not letter.due]
        self.step(self._due, _choose(later, what))

    @rule()
    def every_lease_runs_out(self) -> None:
        self.step(self._all_due)

    async def _all_due(self) -> None:
        for letter in self.world.letters.values():
            if letter.state is State.LEASED:
                await self._due(letter)

    async def _due(self, letter: Letter) -> None:
        await self.control.execute(
            "UPDATE pgqrs_messages SET vt = now() - interval '1 second' WHERE id = $1", letter.id
        )
        letter.due = True

    # -- states --------------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 99), verb=st.sampled_from(["suspend", "resume", "interrupt", "shutdown"]))
    def change_state_from_outside(self, which: int, verb: str) -> None:
        self.step(self._change, self._row(which), verb)

    async def _change(self, row: Row, verb: str) -> None:
        sources, target = {
            "suspend": ((*WORKING, WorkerStatus.INTERRUPTED), WorkerStatus.SUSPENDED),
            "resume": ((WorkerStatus.SUSPENDED,), WorkerStatus.READY),
            "interrupt": (WORKING, WorkerStatus.INTERRUPTED),
            "shutdown": ((WorkerStatus.SUSPENDED,), WorkerStatus.STOPPED),
        }[verb]
        call = getattr(lifecycle, verb)(self.outside.database, row.id)
        if row.status not in sources:
            with pytest.raises(pgqrs.InvalidStateTransitionError):
                await call
            return
        if verb == "suspend" and (held := self.world.held(row.id)):
            with pytest.raises(pgqrs.WorkerHasPendingMessagesError) as caught:
                await call
            assert caught.value.count == len(held)
            return
        await call
        row.status = target
        await self._learn_silence(row)

    async def _learn_silence(self, row: Row) -> None:
        """Whether a change from outside counts as a sign of life is not this test's to say."""
        row.silent = await self.control.fetchval(
            "SELECT heartbeat_at < now() - $2::interval FROM pgqrs_workers WHERE id = $1", row.id, HOUR
        )

    @rule(which=st.integers(0, 99))
    def stop_who_is_known_dead(self, which: int) -> None:
        self.step(self._stop, self._row(which))

    async def _stop(self, row: Row) -> None:
        released = await lifecycle.stop(self.outside.database, [row.id], reason="known dead")
        assert released == {row.id: self.world.stop(row.id)}

    @rule(which=st.integers(0, 99))
    def fall_silent(self, which: int) -> None:
        """Its heartbeats stop: its node is gone, or its network, or it hangs."""
        self.step(self._fall_silent, _choose([row for row in self.world.rows.values() if row.alive], which))

    async def _fall_silent(self, row: Row) -> None:
        await self.control.execute(
            "UPDATE pgqrs_workers SET heartbeat_at = now() - interval '2 hours' WHERE id = $1", row.id
        )
        row.silent = True

    @rule(which=st.integers(0, 99))
    def beat(self, which: int) -> None:
        self.step(self._beat, self._pick(which))

    async def _beat(self, process: Process) -> None:
        row = self.world.rows[process.worker_id]
        if row.status is WorkerStatus.STOPPED:
            with pytest.raises(pgqrs.WorkerReplacedError):
                await process.client.heartbeat()
            Machine.happened["fenced out"] += 1
            return
        await process.client.heartbeat()
        row.silent = False

    @rule()
    def reap_who_is_silent(self) -> None:
        self.step(self._reap)

    async def _reap(self) -> None:
        ids = [WorkerId(row.id) for row in self.world.rows.values()]
        stopped = await fleet.stop_silent(self.outside.database, ids, reason="silent")
        silent = [row for row in self.world.rows.values() if row.silent and row.status is not WorkerStatus.STOPPED]
        assert stopped == {row.id: self.world.stop(row.id) for row in silent}

    @rule(paused=st.booleans())
    def pause_the_queue_or_not(self, *, paused: bool) -> None:
        self.step(self._pause, paused=paused)

    async def _pause(self, *, paused: bool) -> None:
        await self.outside.set_policy(
            QUEUE,
            pgqrs.QueuePolicy(paused=paused, lease_duration=HOUR, heartbeat_timeout=HOUR, read_limit=READ_LIMIT),
        )
        self.world.paused = paused

    # -- connections that are cut --------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 99))
    def cut_an_idle_connection(self, which: int) -> None:
        """The process only notices at its next call, if at all; it has done nothing, and goes on."""
        self.step(self._cut_idle, self._pick(which))

    async def _cut_idle(self, process: Process) -> None:
        cut = await self.control.fetch(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", process.label
        )
        await self._until_gone([record["pid"] for record in cut])
        for _ in range(2):
            # The first call may find the broken connection; the next one has a new one.
            try:
                await process.client.status()
            except pgqrs.DatabaseUnavailableError:
                continue
            return
        pytest.fail("a process whose connection was cut does not come back")

    @rule(which=st.integers(0, 99), count=st.integers(1, 4), client_dies=st.booleans())
    def cut_in_the_middle(self, which: int, count: int, *, client_dies: bool) -> None:
        """While its statement waits for a lock, the process dies, or its connection does on the server's side."""
        self.step(self._cut, self._pick(which), count, client_dies=client_dies)

    async def _cut(self, process: Process, count: int, *, client_dies: bool) -> None:
        client, worker_id = process.client, process.worker_id
        obstacle, argument = "SELECT FROM pgqrs_queues WHERE queue_name = $1 FOR UPDATE", QUEUE
        call: Callable[[], Awaitable[Any]]
        letter: Letter | None = None
        if isinstance(client, pgqrs.Producer):
            call = lambda: client.enqueue_batch(list(range(count)))  # noqa: E731 - three of a kind
        elif held := self.world.held(worker_id):
            letter = held[count % len(held)]
            obstacle, argument = "SELECT FROM pgqrs_messages WHERE id = $1::text::bigint FOR UPDATE", str(letter.id)
            call = lambda: client.archive(letter.id)  # noqa: E731
        elif self.world.works(worker_id):
            obstacle, argument = "SELECT FROM pgqrs_workers WHERE id = $1::text::bigint FOR UPDATE", str(worker_id)
            call = lambda: client.dequeue(count)  # noqa: E731
        else:
            return
        outcome = await self._interrupted(process, call, obstacle, argument, client_dies=client_dies)
        assert not isinstance(outcome, BaseException) or isinstance(outcome, pgqrs.DatabaseUnavailableError), outcome
        Machine.happened["cut in the middle"] += isinstance(outcome, BaseException)
        if isinstance(client, pgqrs.Producer):
            await self._learn_sent(count, client_dies=client_dies)
        elif letter is not None:
            archived = await self.control.fetchval(
                "SELECT archived_at IS NOT NULL FROM pgqrs_messages WHERE id = $1", letter.id
            )
            assert not archived or client_dies, "a statement that was cut on the server is taken back"
            if archived:
                self._finished(letter, "archive")
        else:
            await self._learn_leased(worker_id, count, client_dies=client_dies)
        if client_dies:
            await self._forget(process)

    async def _interrupted(
        self,
        process: Process,
        call: Callable[[], Awaitable[Any]],
        obstacle: str,
        argument: str,
        *,
        client_dies: bool,
    ) -> Any:
        """Hold a call up, cut its connection there, let it go on, and give its outcome once the server is done."""
        async with process.admin.database.connection() as connection:
            transport = _transport(connection)
        waits = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
        async with self.control.transaction():
            await self.control.fetch(obstacle, argument)
            task = asyncio.ensure_future(call())
            while (pid := await self.watch.fetchval(waits, process.label)) is None and not task.done():
                await asyncio.sleep(0)
            if pid is not None and client_dies:
                transport.abort()
            elif pid is not None:
                await self.control.fetch("SELECT pg_terminate_backend($1)", pid)
                await self._until_gone([pid])
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if pid is not None:
            await self._until_gone([pid])
        return outcome

    async def _until_gone(self, pids: list[int]) -> None:
        while await self.watch.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1::int[]))", pids
        ):
            await asyncio.sleep(0.001)

    async def _learn_sent(self, count: int, *, client_dies: bool) -> None:
        """Nobody was told whether the messages were committed: all of them were, or none."""
        new = set(await self._in_order()) - self.world.letters.keys()
        assert len(new) in ((0, count) if client_dies else (0,))
        self.world.letters.update({message_id: Letter(message_id) for message_id in new})

    async def _learn_leased(self, worker_id: int, limit: int, *, client_dies: bool) -> None:
        """Nobody was told whether something was leased; if so, it is this worker's, and not for ever."""
        due = [self.world.letters[message_id] for message_id in self.world.due()]
        found = {record["id"]: record for record in await self._messages()}
        taken = [letter for letter in due if found[letter.id]["holder"] == worker_id or found[letter.id]["dead"]]
        assert len(taken) in ((0, min(limit, len(due))) if client_dies else (0,))
        for letter in taken:
            self._leased(letter, worker_id)
        if taken:
            self.world.rows[worker_id].silent = False
        else:
            await self._learn_silence(self.world.rows[worker_id])

    # -- at the same moment --------------------------------------------------------------------------------------------

    @rule(
        which=st.integers(0, 99),
        limit=st.integers(1, 3),
        disturbance=st.sampled_from(["nothing", "suspend", "stop", "pause", "replace"]),
    )
    def all_fetch_at_once(self, which: int, limit: int, disturbance: str) -> None:
        """Everybody fetches, and meanwhile one of them is suspended, stopped or replaced, or the queue is paused."""
        self.step(self._all_fetch, self._pick(which, pgqrs.Consumer), limit, disturbance)

    async def _all_fetch(self, victim: Process, limit: int, disturbance: str) -> None:
        row = self.world.rows[victim.worker_id]
        if disturbance == "replace" and "#" in row.name:
            # Its name is somebody else's by now.
            disturbance = "nothing"
        host, _, port = row.name.partition("#")[0].partition(":")
        heir = self._process(host, int(port), consumes=True, replace=True)
        disturb: Callable[[], Awaitable[object]] = {
            "nothing": lambda: asyncio.sleep(0),
            "suspend": lambda: lifecycle.suspend(self.outside.database, row.id),
            "stop": lambda: lifecycle.stop(self.outside.database, [row.id], reason="known dead"),
            "pause": lambda: self._pause(paused=True),
            "replace": heir.client.start,
        }[disturbance]
        fetchers = self._of(pgqrs.Consumer)
        due, could = self.world.due(), {process.worker_id: self.world.works(process.worker_id) for process in fetchers}
        if disturbance in ("stop", "replace"):
            due |= {letter.id for letter in self.world.held(row.id)}
        *outcomes, disturbed = await asyncio.gather(
            *(_dequeue(process, limit) for process in fetchers), disturb(), return_exceptions=True
        )
        fetched = Fetched(due)
        for process, outcome in zip(fetchers, outcomes, strict=True):
            stopped = self.world.rows[process.worker_id].status is WorkerStatus.STOPPED
            if isinstance(outcome, pgqrs.WorkerReplacedError):
                assert stopped or (process is victim and disturbance in ("stop", "replace"))
                continue
            assert not isinstance(outcome, BaseException), outcome
            assert could[process.worker_id] or outcome == [], "paused means paused"
            assert isinstance(outcome, list)
            fetched.by[process.worker_id] = outcome
        self._disturbed(row, disturbance, disturbed, fetched)
        if disturbance == "replace":
            heir.worker_id = heir.client.worker_id
            name = row.name
            row.name += f"#{row.id}"
            self.world.rows[heir.worker_id] = Row(heir.worker_id, name)
            self.processes.append(heir)
        else:
            await self._forget(heir)
        await self._learn_fetched(fetched)
        for process in fetchers:
            await self._learn_silence(self.world.rows[process.worker_id])

    def _disturbed(self, row: Row, disturbance: str, outcome: object, fetched: Fetched) -> None:
        """See that what came of the disturbance fits with what its victim was given at the same moment."""
        given = fetched.by.get(row.id, [])
        if disturbance in ("stop", "replace"):
            assert not isinstance(outcome, BaseException), outcome
            self.world.stop(row.id)
            fetched.taken_back = set(given)
            del given[:]
        elif disturbance == "suspend" and outcome is None:
            assert given == [], "either the suspension sees the lease, or the dequeue sees the suspension"
            row.status = WorkerStatus.SUSPENDED
        elif disturbance == "suspend" and row.status in (*WORKING, WorkerStatus.INTERRUPTED):
            assert isinstance(outcome, pgqrs.WorkerHasPendingMessagesError)
            assert given or self.world.held(row.id)
        elif disturbance == "suspend":
            assert isinstance(outcome, pgqrs.InvalidStateTransitionError)
        else:
            assert outcome is None

    async def _learn_fetched(self, fetched: Fetched) -> None:
        """Who got what is chance; that nobody got what another has, or what was not to be had, is not."""
        for worker_id, message_ids in fetched.by.items():
            for message_id in message_ids:
                assert message_id in fetched.due, "not to be had"
                letter = self.world.letters[message_id]
                assert letter.due, "handed to two at once"
                letter.reads += message_id in fetched.taken_back
                self._leased(letter, worker_id)
        for record in await self._messages():
            letter = self.world.letters[record["id"]]
            given = any(letter.id in message_ids for message_ids in fetched.by.values())
            if not given and letter.id in fetched.taken_back:
                letter.reads += 1
                # Free also where somebody else's lease on it had run out before: the victim's was the last one.
                self.world.free(letter)
            if not given and record["dead"] and letter.live:
                assert letter.id in fetched.due
                self._leased(letter, 0)
                assert letter.state is State.DEAD

    # -- what must always hold -----------------------------------------------------------------------------------------

    async def _in_order(self) -> list[int]:
        """What is to be delivered now, in the order of delivery, as the rows say."""
        records = await self.control.fetch(
            "SELECT id FROM pgqrs_messages WHERE archived_at IS NULL AND vt <= now() ORDER BY vt, enqueued_at, id"
        )
        return [record["id"] for record in records]

    async def _messages(self) -> list[asyncpg.Record]:
        return await self.control.fetch(
            "SELECT id, archived_at IS NOT NULL AS archived, dead_reason IS NOT NULL AS dead, "
            "consumer_worker_id AS holder, read_ct AS reads, vt <= now() AS due FROM pgqrs_messages ORDER BY id"
        )

    @invariant()
    def the_rows_are_what_the_model_says(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        found = {record["id"]: record for record in await self._messages()}
        assert found.keys() == {one.id for one in self.world.letters.values() if one.state is not State.DELETED}
        for message_id, record in found.items():
            letter = self.world.letters[message_id]
            assert (record["archived"], record["dead"]) == (not letter.live, letter.state is State.DEAD), letter
            assert record["reads"] == letter.reads, letter
            if letter.live:
                assert (record["holder"], record["due"]) == (letter.holder, letter.due), letter
        rows = await self.control.fetch("SELECT id, name, status::text AS status FROM pgqrs_workers")
        assert {row["id"]: (row["name"], row["status"]) for row in rows} == {
            row.id: (row.name, row.status.value) for row in self.world.rows.values()
        }
        for letter in self.world.letters.values():
            if letter.state is State.LEASED and letter.holder is not None:
                assert self.world.rows[letter.holder].status is not WorkerStatus.STOPPED, "held by who is no more"

    def teardown(self) -> None:
        """In the end everything that was sent is delivered, whoever held it last."""
        try:
            if not self.failed:
                self.run(self._deliver_the_rest())
        finally:
            self.run(self._forget_all())

    async def _forget_all(self) -> None:
        for process in list(self.open):
            await self._forget(process)

    async def _deliver_the_rest(self) -> None:
        for process in list(self.processes):
            await self._forget(process)
        await self._pause(paused=False)
        for letter in self.world.letters.values():
            if letter.live and not letter.due:
                await self._due(letter)
        await self._start("last", None, consumes=True, replace=False)
        (last,) = self.processes
        while self.world.due():
            await self._fetch(last, 5)
            for letter in self.world.held(last.worker_id):
                await self._finish(last, letter, "archive")
        assert not any(letter.live for letter in self.world.letters.values())
        await self._compare()
        await self._end(last)

    # -- choosing ------------------------------------------------------------------------------------------------------

    def _of(self, kind: type[pgqrs.Producer | pgqrs.Consumer]) -> list[Process]:
        return [process for process in self.processes if isinstance(process.client, kind)]

    def _pick(self, which: int, kind: type[pgqrs.Producer | pgqrs.Consumer] | None = None) -> Process | None:
        return _choose(self.processes if kind is None else self._of(kind), which)

    def _row(self, which: int) -> Row | None:
        return _choose(self.world.rows.values(), which)


def _choose(among: Collection[T], which: int) -> T | None:
    """Take one by a number that may be any."""
    return list(among)[which % len(among)] if among else None


def _transport(connection: Any) -> asyncio.Transport:
    """The socket of a connection of the pool, for ending it as the death of its process does."""
    transport: asyncio.Transport = connection._con._transport  # noqa: SLF001 - asyncpg has no public way to it
    return transport


async def _dequeue(process: Process, limit: int) -> list[int]:
    assert isinstance(process.client, pgqrs.Consumer)
    return [message.id for message in await process.client.dequeue(limit)]


@pytest.mark.timeout(600)
def test_nothing_is_lost_shared_or_stuck_whatever_happens(
    dsn: str, event_loop_of_the_machine: asyncio.AbstractEventLoop, capsys: pytest.CaptureFixture[str]
) -> None:
    first = int(os.environ.get(_SEED) or secrets.randbelow(2**32))
    Machine.dsn, Machine.loop = dsn, event_loop_of_the_machine
    Machine.steps, Machine.happened = 0, Counter()
    Machine.loop.run_until_complete(_open())
    try:
        # What is rarest is missing in one run of many: the next seed then goes on until all of it was seen.
        for seed in range(first, first + _MOST_RUNS):
            with capsys.disabled():
                print(f"\nstate machine: {_SEED}={seed}")
            _run(seed)
            if not _missing():
                break
    finally:
        Machine.loop.run_until_complete(_close())
    with capsys.disabled():
        print(f"state machine: {Machine.steps} steps, {dict(Machine.happened)}")
    assert Machine.steps >= _LEAST_STEPS
    assert not _missing()


def _run(seed: int) -> None:
    run_state_machine_as_test(
        hypothesis.seed(seed)(Machine),
        settings=settings(
            max_examples=80,
            stateful_step_count=60,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def _missing() -> list[str]:
    """What the machine has not met yet."""
    return [event for event in _MUST_HAPPEN if not Machine.happened[event]]


@pytest.fixture
def event_loop_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that only runs during steps. Nobody sends heartbeats but in a step that says so."""
    monkeypatch.setattr(worker, "_HEARTBEAT_SECONDS", 3600.0)
    with asyncio.Runner() as runner:
        yield runner.get_loop()


async def _open() -> None:
    Machine.control = await asyncpg.connect(Machine.dsn)
    Machine.watch = await asyncpg.connect(Machine.dsn)
    Machine.outside = pgqrs.Admin(Machine.dsn)


async def _close() -> None:
    await Machine.outside.aclose()
    await Machine.control.close()
    await Machine.watch.close()
