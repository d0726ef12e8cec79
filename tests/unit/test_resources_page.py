"""The page of columns, conditions and Events says all that the operator's source says, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgqrs_operator import verdicts
from pgqrs_operator.names import PAUSED_ANNOTATION
from pgqrs_operator.resources import crds

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "resources.md").read_text(encoding="utf-8")
SOURCE = ROOT / "operator" / "pgqrs_operator"
#: The functions that make a verdict, and the condition that is True then.
CONDITIONS = {"ready": "Ready", "waiting": "Reconciling", "stalled": "Stalled"}


def section(heading: str) -> str:
    """What stands under a heading, up to the next one of its rank."""
    rank = heading.partition(" ")[0]
    return re.split(rf"^#{{1,{len(rank)}}} ", PAGE.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of tables that begin with a word in code."""
    found = re.findall(r"^\| (`\w+` \|.*) ?\|$", text, re.MULTILINE)
    return [[cell.strip().strip("`") for cell in row.split("|")] for row in found]


def calls() -> Iterator[ast.Call]:
    """All calls in the operator's source."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield node


def told_conditions() -> dict[str, set[str]]:
    """The reasons of verdicts in the source, each with the conditions that are True with it."""
    found: dict[str, set[str]] = {}
    for call in calls():
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="verdicts"), attr=made), args=[reason, *_]) if (
                made in CONDITIONS
            ):
                found.setdefault(word(reason), set()).add(CONDITIONS[made])
    return found


def word(reason: ast.expr) -> str:
    """The reason that is given to a verdict: a text, or a constant of `verdicts`."""
    match reason:
        case ast.Constant(value=str(text)):
            return text
        case ast.Attribute(value=ast.Name(id="verdicts"), attr=name):
            return str(getattr(verdicts, name))
    pytest.fail(f"the reason in line {reason.lineno} is neither a text nor a constant of verdicts: {ast.dump(reason)}")


def told_events() -> set[str]:
    """The reasons of Events in the source, but for those that are a verdict's."""
    found: set[str] = set()
    for call in calls():
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in {"event", "pod_event", "_event"}:
            continue
        if ast.unparse(call.func.value) == "kopf.on":
            # An event of a watch.
            continue
        match call.args[1]:
            case ast.Constant(value=str(text)):
                found.add(text)
            case ast.Attribute(value=ast.Name(id="action"), attr="cause"):
                found |= causes()
            case ast.Attribute(value=ast.Name(id="verdict"), attr="reason") | ast.Name(id="reason"):
                # A verdict's, or handed on.
                pass
            case other:
                pytest.fail(f"an Event's reason in line {other.lineno} is none of those: {ast.dump(other)}")
    return found


def causes() -> set[str]:
    """The words that say why a queue's row is written: what is assigned to `cause` where rows are planned."""
    tree = ast.parse((SOURCE / "queue_plans.py").read_text(encoding="utf-8"))
    assigned = [
        one.value
        for one in ast.walk(tree)
        if isinstance(one, ast.Assign) and [ast.unparse(target) for target in one.targets] == ["cause"]
    ]
    words = [node for one in assigned for node in ([one.body, one.orelse] if isinstance(one, ast.IfExp) else [one])]
    return {ast.literal_eval(node) for node in words}


def test_every_reason_of_a_condition_is_on_the_page_with_its_condition() -> None:
    told = told_conditions()
    assert len(told) > 20
    shown: dict[str, set[str]] = {}
    for reason, condition, meaning, *_ in rows(section("## Conditions")):
        assert meaning
        assert reason not in shown, f"{reason} stands there twice"
        shown[reason] = {condition}
    assert shown == told


def test_every_verdict_is_made_by_one_of_three_functions() -> None:
    # Else its reason would not be found above.
    made = [call for call in calls() if ast.unparse(call.func) in {"Verdict", "verdicts.Verdict"}]
    assert [ast.unparse(call.args[0]) for call in made if call.args] == ["'ready'", "'waiting'", "'stalled'"]


def test_every_reason_of_an_event_is_on_the_page() -> None:
    told = told_events()
    assert {"Created", "LetGo", "NotInjected"} <= told
    shown = [row[0] for row in rows(section("## Events"))]
    assert sorted(shown) == sorted(told)


@pytest.mark.parametrize("kind", ["PgqrsQueue", "PgqrsWorker"])
def test_every_column_is_on_the_page(kind: str) -> None:
    [definition] = [one["spec"] for one in crds.definitions().values() if one["spec"]["names"]["kind"] == kind]
    columns = [one["name"] for one in definition["versions"][0]["additionalPrinterColumns"]]
    table = section("## Columns").partition(f"| `{kind}` |")[2].partition("\n\n")[0]
    assert [row[0] for row in rows(table)] == columns


def test_the_annotation_that_leaves_alone_is_on_the_page() -> None:
    text = section("### To leave one alone")
    assert f"kubectl annotate pgqrsqueue emails {PAUSED_ANNOTATION}=true\n" in text
    assert f" {PAUSED_ANNOTATION}- " in text
