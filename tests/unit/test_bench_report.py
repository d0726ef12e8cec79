"""What the bench makes of its numbers: tables, verdicts, and what limits a measurement."""

from __future__ import annotations

import pytest

from tests.bench import aims, plot, report
from tests.bench.measuring import Selection
from tests.bench.results import Results, Sample, limit
from tests.bench.works import WORKS


def rates(*given: tuple[str, str, str, float]) -> Results:
    results = Results()
    for work, contender, setting, rate in given:
        results.add(work, contender, setting, Sample(values={"rate": rate}))
    return results


def verdict(results: Results, work: str) -> aims.Verdict:
    return next(found for found in aims.verdicts(results) if found.work.startswith(work))


def test_a_median_and_its_spread_are_of_the_rounds() -> None:
    results = rates(*(("run", "pgqrs", "default", rate) for rate in (90.0, 100.0, 120.0)))

    cell = results.cells["run", "pgqrs", "default"]

    assert cell.median("rate") == 100
    assert cell.spread("rate") == pytest.approx(0.3)


def test_an_aim_is_reached_when_all_of_its_parts_are() -> None:
    peers = [("enqueue-1", peer, "default", 50.0) for peer in ("upstream", "pgqueuer", "procrastinate")]
    reached = rates(("enqueue-1", "pgqrs", "default", 95.0), ("enqueue-1", "bare-ours", "default", 100.0), *peers)
    behind_bare = rates(("enqueue-1", "pgqrs", "default", 94.0), ("enqueue-1", "bare-ours", "default", 100.0), *peers)

    assert verdict(reached, "enqueue, one").answer == "yes"
    assert verdict(behind_bare, "enqueue, one").answer == "no"
    assert "0.94 of bare-ours" in verdict(behind_bare, "enqueue, one").measured


def test_our_best_is_compared_with_the_best_of_the_peers() -> None:
    results = rates(
        ("run-4", "pgqrs", "default", 150.0),
        ("run-4", "pgqrs", "best", 199.0),
        ("run-4", "pgqueuer", "default", 20.0),
        ("run-4", "pgqueuer", "best", 100.0),
        ("run-4", "procrastinate", "best", 10.0),
    )

    found = verdict(results, "run, four")

    assert found.reached is False
    assert found.measured == "1.99 times the best peer (on asyncio 1.50)"


def test_an_aim_without_its_numbers_is_not_measured() -> None:
    results = rates(("enqueue-1", "pgqrs", "default", 95.0), ("enqueue-1", "upstream", "default", 50.0))

    assert verdict(results, "enqueue, one").answer == "not measured"
    assert {found.reached for found in aims.verdicts(Results())} == {None}


def test_a_part_that_failed_decides_although_another_was_not_measured() -> None:
    results = rates(("enqueue-1", "pgqrs", "default", 10.0), ("enqueue-1", "upstream", "default", 50.0))

    assert verdict(results, "enqueue, one").answer == "no"


def test_the_worse_of_our_settings_counts_for_a_bound() -> None:
    results = Results()
    results.add("backlog", "pgqrs", "default", Sample(values={"ratio": 0.95}))
    results.add("backlog", "pgqrs", "best", Sample(values={"ratio": 0.8}))

    assert verdict(results, "backlog").measured == "0.80 of the rate"
    assert verdict(results, "backlog").reached is False


def test_what_failed_is_in_the_table_with_its_error() -> None:
    results = rates(("run", "pgqrs", "default", 1234.0), ("run", "bare-untouched", "default", 617.0))
    results.add("run", "pgqueuer", "best", "OSError: no | entry\nof this name")
    work = next(work for work in WORKS if work.name == "run")

    lines = report.work_table(work, results.of("run"), cores=2).splitlines()

    assert "| 1,234 " in lines[2]
    assert "| 2.00 " in lines[2]
    assert "failed: OSError: no \\| entry of this name" in lines[4]
    assert len({len(line) for line in lines}) == 1


def test_a_limit_is_what_was_used_up() -> None:
    def sample(client: float, server: float, processes: int = 1, **sessions: float) -> Sample:
        return Sample(
            values={}, seconds=10, processes=processes, client_cpu=client, server_cpu=server, sessions=sessions
        )

    assert limit(sample(9, 3), cores=4) == "client CPU"
    assert limit(sample(3, 9), cores=4) == "server CPU"
    assert limit(sample(12, 6, processes=4), cores=2) == "all cores"
    assert limit(sample(4, 4), cores=2) == "waits"
    assert limit(sample(4, 4, CPU=0.9, WALSync=0.5, WALWrite=0.4), cores=2) == "waits (WALSync)"
    assert limit(sample(4, 4, CPU=0.9, WALSync=0.1), cores=2) == "waits"


def test_a_name_chooses_all_that_begin_with_it() -> None:
    selection = Selection.parse("run,latency", "pgqrs,bare")

    assert [work.name for work in selection.works] == ["run", "run-dropped", "run-4", "latency"]
    assert [one.name for one in selection.contenders] == ["pgqrs", "bare-ours", "bare-untouched"]
    assert not selection.everything
    assert Selection.parse("", "").everything
    with pytest.raises(ValueError, match="There is no 'pgmq'; there are pgqrs, "):
        Selection.parse("", "pgmq")


def test_the_longest_bar_fills_the_plot_and_labels_are_escaped() -> None:
    drawn = plot.bars([("a & b", [plot.Bar("ours", 200.0, ours=True), plot.Bar("theirs", 100.0)])])

    assert "a &amp; b" in drawn
    assert 'width="480.0"' in drawn
    assert 'width="240.0"' in drawn
