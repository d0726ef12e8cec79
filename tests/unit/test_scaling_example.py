"""The example for KEDA and the page about scaling fit what the operator answers."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from pgqrs.fleet import FleetCounts
from pgqrs.models import QueueCounts
from pgqrs_operator import scaling
from pgqrs_operator.backlogs import Backlog

ROOT = Path(__file__).parents[2]
EXAMPLE = yaml.safe_load((ROOT / "deploy/examples/keda/scaledobject.yaml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
(TRIGGER,) = EXAMPLE["spec"]["triggers"]
ANSWER = scaling.told(
    Backlog(FleetCounts(messages=QueueCounts(ready=7, leased=2, delayed=1), oldest=timedelta(seconds=1.5)), 0.0)
)


def test_the_example_asks_where_the_operator_answers() -> None:
    emails = ROOT / "deploy/examples/emails"
    deployment = yaml.safe_load((emails / "deployment.yaml").read_text(encoding="utf-8"))
    queue = yaml.safe_load((emails / "queue.yaml").read_text(encoding="utf-8"))
    assert EXAMPLE["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", scaling.PATH)
    found = re.fullmatch(pattern, urlsplit(TRIGGER["metadata"]["url"]).path)
    assert found is not None
    assert found["queue"] == queue["metadata"]["name"]
    # KEDA takes texts only, and reads a number at this place of the answer.
    assert all(isinstance(value, str) for value in TRIGGER["metadata"].values())
    assert isinstance(ANSWER[TRIGGER["metadata"]["valueLocation"]], int)


def test_the_page_shows_the_trigger_of_the_example() -> None:
    (block,) = re.findall(r"```yaml\n(  triggers:.*?)```", PAGE, re.DOTALL)
    assert yaml.safe_load(block)["triggers"] == EXAMPLE["spec"]["triggers"]


def test_the_page_names_every_field_of_an_answer() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(ANSWER)
    assert (ANSWER["depth"], ANSWER["inFlight"], ANSWER["total"], ANSWER["delayed"]) == (7, 2, 9, 1)
    assert ANSWER["oldestReadySeconds"] == 1.5
