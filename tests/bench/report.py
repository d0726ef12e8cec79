"""Turns a run into tables: Markdown for the page, and plain text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.aims import PGMQ_RATIOS
from tests.bench.contenders import BARE_UNTOUCHED, CONTENDERS
from tests.bench.server import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.bench.aims import Verdict
    from tests.bench.machine import Machine
    from tests.bench.results import Cell, Results
    from tests.bench.scale import Scale
    from tests.bench.works import Work

_HEADINGS = {
    "rate": "messages/s",
    "small": "small backlog, messages/s",
    "large": "large backlog, messages/s",
    "ratio": "ratio",
    "p50": "p50, ms",
    "p99": "p99, ms",
    "p50_normal": "normal p50, ms",
    "p99_normal": "normal p99, ms",
    "p99_of_last_third": "p99 of the last third, ms",
    "handled": "handled",
    "beat": "one beat of all, s",
    "hot": "HOT",
}
_SHARES = {"handled", "hot"}
_WHOLE = {"rate", "small", "large"}
_NOTES = {
    "run": "The time ends with the last message that a handler got; that all were completed is checked after it.",
    "run-dropped": "Bare asyncpg on the untouched tables archives here too: it is what the aim compares with.",
    "latency": "From before the enqueue call to the handler; one message every 20 to 32 ms; both in one process. "
    "It begins after a checkpoint, once autovacuum rests.",
    "backlog": "For every 500 handled, 500 are added; the small one is 1,000 beside what is on its way.",
    "snapshot": "From before the enqueue call to the handler; sender and worker are processes of their own.",
    "heartbeat": "Ours is the statement of a sidecar for its pod, here one of 100,000 workers; bare is one UPDATE.",
}
_INTRODUCTION = """\
# Performance

Written by `make bench`; change it there. All numbers are of one run on one server, contenders interleaved, each round
beginning with another, {rounds}.
Client and server share the machine's cores: **ratios carry over to other machines, absolute numbers do not**.

![Messages in a second]({plot})

## What was to be reached

{aims}

Ours is compared with bare asyncpg on the same event loop, and with the peers best against best.

## The machine

{machine}

The server is private to the run: {settings}, all else as PostgreSQL has it (`synchronous_commit = on`). The payload is
about 95 bytes of JSON.

## How to run it

```sh
{command}   # what wrote this page
make bench   # 25 minutes; writes docs/performance.md, .json and .svg
make bench QUICK=1   # 3 minutes, to see that it works; writes the same to build/bench
python -m tests.bench --only run --contenders pgqrs,bare   # a part of it
```

## Who takes part

{contenders}

pgmq is on no package index. What stands for it are ratios to bare asyncpg on the untouched tables, from our research
on another machine (pgmq 1.5.1 as SQL); it was not measured here.

## The works

The spread is from the smallest to the largest sample, as a share of the median. CPU is in microseconds for each
message, and *limit* says what was used up: a client process's core, as much as a core by the server, all cores, or
none of these (waits: round trips, timers, or what PostgreSQL calls the event that most sessions waited for)."""


def page(
    *,
    results: Results,
    verdicts: Sequence[Verdict],
    works: Iterable[Work],
    machine: Machine,
    scale: Scale,
    command: str,
    plot: str,
) -> str:
    """Write the page."""
    parts = [
        _INTRODUCTION.format(
            rounds=f"medians of {scale.rounds} rounds" if scale.rounds > 1 else "one round",
            plot=plot,
            aims=aims_table(verdicts),
            machine=machine_table(machine),
            settings=", ".join(f"`{name} = {value}`" for name, value in SETTINGS.items()),
            command=command,
            contenders=contenders_table(),
        )
    ]
    for work in works:
        cells = results.of(work.name)
        if cells:
            parts += [f"### {work.title}", *([_NOTES[work.name]] if work.name in _NOTES else [])]
            parts.append(work_table(work, cells, machine.cores))
    return "\n\n".join(parts) + "\n"


def aims_table(verdicts: Sequence[Verdict]) -> str:
    """Write the table of aims."""
    rows = [(verdict.work, verdict.aim, verdict.measured, verdict.answer) for verdict in verdicts]
    return table(("work", "to reach", "measured", "reached"), rows)


def machine_table(machine: Machine) -> str:
    """Write what the run ran on."""
    return table(
        ("what", "here"),
        [
            ("CPU", f"{machine.cpu}, {machine.cores} cores"),
            ("memory", f"{machine.memory_gib} GiB"),
            ("PostgreSQL", machine.postgresql),
            ("Python", machine.python),
            ("kernel", machine.kernel),
            ("load average before the run", f"{machine.load_before:.1f}"),
        ],
    )


def contenders_table() -> str:
    """Write who takes part with which settings."""
    rows = [(contender.title, *(setting.text for setting in contender.settings)) for contender in CONTENDERS]
    return table(("contender", "default", "best"), rows)


def work_table(work: Work, cells: dict[tuple[str, str], Cell], cores: int) -> str:
    """Write all that was measured of one work, in the order of contenders."""
    with_ratio = work.shown == ("rate",)
    bare = cells.get((BARE_UNTOUCHED.name, "default"))
    base = bare.median("rate") if bare else None
    headings = ["contender", "setting", *(_HEADINGS[name] for name in work.shown), "spread"]
    headings += [f"of {BARE_UNTOUCHED.name}"] if with_ratio else []
    headings += ["client CPU", "server CPU", "limit"]
    rows = []
    for contender in CONTENDERS:
        for setting in contender.settings:
            cell = cells.get((contender.name, setting.name))
            if cell is not None:
                row = [contender.title, setting.name, *_measured(work, cell)]
                row += [_ratio(cell.median("rate"), base)] if with_ratio else []
                rows.append([*row, *_costs(cell, cores)])
    if work.name in PGMQ_RATIOS and with_ratio:
        rows.append(["pgmq (research, not measured here)", "", "", "", f"{PGMQ_RATIOS[work.name]:.2f}", "", "", ""])
    return table(headings, rows)


def _measured(work: Work, cell: Cell) -> list[str]:
    if not cell.samples:
        return [f"failed: {cell.errors[0]}", *[""] * len(work.shown)]
    values = [_number(name, cell.median(name)) for name in work.shown]
    if cell.errors:
        values[0] += f" ({len(cell.errors)} failed: {cell.errors[0]})"
    spread = cell.spread(work.shown[0])
    return [*values, "" if spread is None else f"{spread:.0%}"]


def _costs(cell: Cell, cores: int) -> list[str]:
    count = sum(sample.count for sample in cell.samples)
    if not count:
        return ["", "", ""]
    client = sum(sample.client_cpu for sample in cell.samples) / count * 1e6
    server = sum(sample.server_cpu for sample in cell.samples) / count * 1e6
    return [f"{client:,.0f}", f"{server:,.0f}", cell.limit(cores)]


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value and base else ""


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in _SHARES:
        return f"{value:.1%}"
    return f"{value:,.0f}" if name in _WHOLE else f"{value:,.2f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table whose columns are aligned also for those who read it as text."""
    lines = [[_cell(text) for text in row] for row in (headings, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    written = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([written[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *written[1:]])


def _cell(text: str) -> str:
    """A bar or a line's end would end the cell."""
    return " ".join(text.replace("|", "\\|").split())
