"""The alerts of the chart and the queries of the page: each asks for series that operators or injectors show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import MatchOp, VectorSelector

from pgqrs.fleet import FleetCounts
from pgqrs_operator import backlogs
from pgqrs_operator.backlogs import Backlog
from pgqrs_operator.facts import Key
from pgqrs_operator.metrics import Metrics, ReleaseCause
from tests.support import webhook
from tests.support.markdown import blocks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
ALERTS: dict[str, Any] = yaml.safe_load((ROOT / "charts/pgqrs/files/alerts.yaml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
QUERIES: list[str] = re.findall(
    r"^\| .* \| `(.+)` \|$", PAGE.read_text("utf-8").partition("## Queries")[2], re.MULTILINE
)

#: The labels of a series, with its name as Prometheus keeps it.
Series = dict[str, str]


@pytest.fixture
async def series(monkeypatch: pytest.MonkeyPatch) -> list[Series]:
    """All series that an operator shows once everything happened, and those of an injector."""
    monkeypatch.setattr(backlogs, "STALE_SECONDS", float("inf"))
    metrics = Metrics()
    metrics.backlogs.put(Key("shop", "emails"), Backlog(FleetCounts(), 0.0))
    metrics.database_taken("db:5432/app")
    metrics.round_took("db:5432/app", 0.1)
    for cause in get_args(ReleaseCause):
        metrics.worker_stopped(cause, 1, 0.5)
    async with webhook.running(webhook.StandIn({webhook.SECRET: webhook.secret(webhook.issued())})) as injector:
        await injector.becomes("/healthz", 200)
        _, injected = await injector.get("/metrics")
    return [
        {"__name__": sample.name, **sample.labels}
        for text in (metrics.text().decode(), injected)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def selectors(expression: str) -> list[VectorSelector]:
    """What a query asks for, in any depth.

    Raises:
        ValueError: it is no PromQL.
    """
    found: list[VectorSelector] = []

    def visit(part: object) -> None:
        if isinstance(part, promql_parser.MatrixSelector):
            part = part.vector_selector
        if isinstance(part, VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def selected(selector: VectorSelector, shown: list[Series]) -> list[Series]:
    def matches(one: Series) -> bool:
        for matcher in selector.matchers.matchers:
            assert matcher.name in one, f"{selector.name} has no label {matcher.name}"
            equal = one[matcher.name] == matcher.value
            assert matcher.op in (MatchOp.Equal, MatchOp.NotEqual)
            if equal is not (matcher.op == MatchOp.Equal):
                return False
        return True

    return [one for one in shown if one["__name__"] == selector.name and matches(one)]


def asks_for_what_is_there(expression: str, shown: list[Series]) -> list[Series]:
    """Give the series that a query reads; each of its parts reads some, and each label that it names exists."""
    asked = selectors(expression)
    assert asked
    read = []
    for selector in asked:
        found = selected(selector, shown)
        assert found, f"nothing shows {selector.prettify()}"
        for one in selector.matchers.matchers:
            # One that keeps nothing out is a word that nobody says any more.
            values = {series[one.name] for series in shown if series["__name__"] == selector.name}
            assert one.value in values, f"{selector.name} never says {one.name} {one.value!r}"
        read += found
    return read


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_series_that_are_shown(rule: dict[str, Any], series: list[Series]) -> None:
    read = asks_for_what_is_there(rule["expr"], series)
    assert rule["labels"]["severity"] in {"warning", "critical"}
    for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
        assert all(label in one for one in read), f"{rule['alert']} speaks of {label}, which its series have not"


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_page_asks_for_series_that_are_shown(query: str, series: list[Series]) -> None:
    asks_for_what_is_there(query, series)


def test_the_page_has_queries_and_the_chart_alerts() -> None:
    assert len(QUERIES) > 3
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 5


def test_the_page_shows_the_alerts_of_the_chart() -> None:
    [shown] = [block for block in blocks(PAGE, "yaml") if block.heading == "Alerts"]
    assert yaml.safe_load(shown.code) == ALERTS
