"""The works: what each is, who takes part, and how one sample of it is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from tests.bench.contenders import BARE_OURS, BARE_UNTOUCHED, CONTENDERS, OURS, PEERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench.contenders import Contender, Setting
    from tests.bench.results import Sample
    from tests.bench.stage import Stage

    Measure: TypeAlias = Callable[[Stage, Contender, Setting], Awaitable[Sample]]

_EVERYBODY = tuple(contender.name for contender in CONTENDERS)
#: How long a worker is left alone after its first message, and before messages are offered at a fixed rate.
_SETTLE_SECONDS = 1.0
_BEAT_SECONDS = 120.0
#: Some 1,000 that are ready at any time, and what the worker has fetched ahead or is on its way from the sender.
_SMALL_BACKLOG = 1000 + 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One row of the aims, or two that are measured together."""

    name: str
    title: str
    measure: Measure
    contenders: tuple[str, ...] = _EVERYBODY
    #: What the table and the plot show of a sample.
    shown: tuple[str, ...] = ("rate",)
    #: Settings that make no difference here are left out.
    settings: tuple[str, ...] = ("default", "best")
    #: Only messages are sent, so a contender that sends alike with all its settings is measured with one.
    sends: bool = False
    #: How often it is taken in a round, because it swings, and whether it is taken in the first round alone.
    samples: int = 1
    once: bool = False

    def chosen(self, contender: Contender) -> tuple[Setting, ...]:
        """Give the settings with which a contender takes part; none where it does not."""
        if contender.name not in self.contenders:
            return ()
        if self.sends and contender.sends_alike:
            return contender.settings[:1]
        return tuple(setting for setting in contender.settings if setting.name in self.settings)


async def _enqueue(stage: Stage, contender: Contender, setting: Setting, *, tasks: int) -> Sample:
    database = await stage.empty(contender, setting)
    seconds = stage.scale.enqueue_seconds
    task = stage.task(contender, setting, database, "enqueue", more={}, tasks=tasks, seconds=seconds)
    return (await stage.run([task], seconds=seconds))[0]


async def _enqueue_batch(stage: Stage, contender: Contender, setting: Setting, *, size: int) -> Sample:
    database = await stage.empty(contender, setting)
    seconds = stage.scale.enqueue_seconds
    task = stage.task(contender, setting, database, "enqueue_batch", more={}, size=size, seconds=seconds)
    return (await stage.run([task], seconds=seconds))[0]


async def _run(
    stage: Stage, contender: Contender, setting: Setting, *, processes: int = 1, completed: str = "archive"
) -> Sample:
    database = await stage.empty(contender, setting)
    # Two cores do not give four processes four times the rate of one.
    filled = max(20, int(setting.rate * stage.scale.run_seconds * (2 if processes > 1 else 1)))
    more = {"completed": completed}
    first = stage.task(contender, setting, database, "drain", more=more, fill=filled)
    others = [stage.task(contender, setting, database, "drain", more=more) for _ in range(processes - 1)]
    sample, _ = await stage.run([first, *others], seconds=stage.scale.run_seconds * 10, tidy=database)
    await stage.check_completed(contender, database, filled, sample)
    return sample


async def _run_dropped(stage: Stage, contender: Contender, setting: Setting) -> Sample:
    """Drop what is completed; bare asyncpg on the untouched tables archives, it is what the aim compares with."""
    return await _run(
        stage, contender, setting, completed="archive" if contender.name == BARE_UNTOUCHED.name else "delete"
    )


async def _backlog(stage: Stage, contender: Contender, setting: Setting) -> Sample:
    """Take the rate on a small and on a large backlog, one right after the other."""
    rates = {}
    sample: Sample | None = None
    for name, size in (("small", _SMALL_BACKLOG), ("large", stage.scale.large_backlog)):
        database = await stage.database(contender, setting, name)
        missing = size - await stage.server.value(database, contender.left)
        if missing > 0:
            fill = stage.task(contender, setting, database, "fill", more={}, fill=missing)
            await stage.run([fill], seconds=stage.scale.backlog_seconds)
            # Nothing that the filling left to do may fall into the measurement.
            await stage.server.execute(database, "CHECKPOINT")
        seconds = stage.scale.backlog_seconds
        task = stage.task(contender, setting, database, "refill", more={}, seconds=seconds)
        sample, _ = await stage.run([task], seconds=seconds, tidy=database)
        rates[name] = sample.values["rate"]
    assert sample is not None
    values = {**rates, "ratio": rates["large"] / rates["small"] if rates["small"] else 0.0}
    return replace(sample, values=values)


async def _latency(stage: Stage, contender: Contender, setting: Setting) -> Sample:
    database = await stage.empty(contender, setting)
    messages = stage.scale.latency_messages
    await stage.rest()
    task = stage.task(contender, setting, database, "latency", more={}, messages=messages, settle=_SETTLE_SECONDS)
    sample, answers = await stage.run([task], seconds=messages)
    return replace(sample, values={name: answers[0][name] for name in ("p50", "p99")})


async def _snapshot(stage: Stage, contender: Contender, setting: Setting) -> Sample:
    """Offer messages at a fixed rate, first as usual, then while another session holds a snapshot."""
    database = await stage.empty(contender, setting)
    await stage.rest()
    normal, _ = await _offered(stage, contender, setting, database, stage.scale.normal_seconds)
    await stage.server.execute(database, contender.clear)
    async with stage.server.snapshot(database):
        held, sample = await _offered(stage, contender, setting, database, stage.scale.snapshot_seconds)
    values = {
        "handled": held["count"] / (stage.scale.offered_per_second * stage.scale.snapshot_seconds),
        "p50_normal": normal["p50"],
        "p99_normal": normal["p99"],
        "p50": held["p50"],
        "p99": held["p99"],
        "p99_of_last_third": held["p99_of_last_third"],
        "ratio": held["p99"] / normal["p99"] if normal["p99"] else 0.0,
    }
    return replace(sample, values=values)


async def _offered(
    stage: Stage, contender: Contender, setting: Setting, database: str, seconds: float
) -> tuple[dict[str, float], Sample]:
    await stage.tidy(database)
    rate = stage.scale.offered_per_second
    limit = _SETTLE_SECONDS + seconds + stage.scale.grace_seconds
    worker = stage.task(contender, setting, database, "serve", more={}, count=int(rate * seconds), seconds=limit)
    sender = stage.task(
        contender, setting, database, "offer", more={}, rate=rate, seconds=seconds, settle=_SETTLE_SECONDS
    )
    sample, answers = await stage.run([worker, sender], seconds=limit)
    return answers[0], sample


async def _heartbeat(stage: Stage, contender: Contender, setting: Setting) -> Sample:
    """Beat for a fleet; the share that was HOT comes from the statistics of the server."""
    database = await stage.database(contender, setting, "fleet")
    await stage.server.execute(database, "TRUNCATE pgqrs_workers CASCADE", "SELECT pg_stat_reset()")
    numbers = {"workers": stage.scale.workers, "beats": stage.scale.beats}
    task = stage.task(contender, setting, database, "beat", more={}, **numbers)
    sample, answers = await stage.run([task], seconds=_BEAT_SECONDS, tidy=database)
    updated = await stage.server.value(database, _UPDATED.format("n_tup_upd"))
    hot = await stage.server.value(database, _UPDATED.format("n_tup_hot_upd"))
    return replace(sample, values={"beat": answers[0]["beat"], "hot": hot / updated if updated else 0.0})


#: The children have ended, and what a session counted is there when it has ended.
_UPDATED = "SELECT {} FROM pg_stat_user_tables WHERE relname = 'pgqrs_workers'"

WORKS = (
    # Each waits for the disk, and how long that takes changes from second to second.
    Work(
        name="enqueue-1",
        title="Enqueue, one task, one by one",
        measure=partial(_enqueue, tasks=1),
        sends=True,
        samples=3,
    ),
    Work(name="enqueue-64", title="Enqueue, 64 tasks one by one", measure=partial(_enqueue, tasks=64), sends=True),
    Work(
        name="enqueue-batch-100",
        title="Enqueue in batches of 100",
        measure=partial(_enqueue_batch, size=100),
        sends=True,
    ),
    Work(
        name="enqueue-batch-1000",
        title="Enqueue in batches of 1,000",
        measure=partial(_enqueue_batch, size=1000),
        sends=True,
    ),
    Work(name="run", title="Run, no-op async handler, one process, archiving", measure=_run),
    Work(
        name="run-dropped",
        title="The same, completed messages dropped instead of archived",
        measure=_run_dropped,
        contenders=(OURS.name, BARE_OURS.name, BARE_UNTOUCHED.name),
    ),
    Work(name="run-4", title="Run, four processes", measure=partial(_run, processes=4)),
    Work(
        name="latency",
        title="Pick-up by an idle worker",
        measure=_latency,
        contenders=(OURS.name, BARE_OURS.name, *PEERS),
        shown=("p50", "p99"),
    ),
    Work(
        name="backlog",
        title="Run on a standing backlog, large against small",
        measure=_backlog,
        contenders=(OURS.name, BARE_OURS.name),
        settings=("default",),
        shown=("small", "large", "ratio"),
    ),
    Work(
        name="snapshot",
        title="A snapshot held open in another session, 300 messages/s offered",
        measure=_snapshot,
        contenders=(OURS.name, *PEERS),
        settings=("best",),
        shown=("handled", "p50_normal", "p99_normal", "p50", "p99", "p99_of_last_third", "ratio"),
        once=True,
    ),
    Work(
        name="heartbeat",
        title="Heartbeats of 100,000 workers",
        measure=_heartbeat,
        contenders=(OURS.name, BARE_OURS.name),
        settings=("default",),
        shown=("beat", "hot"),
    ),
)
