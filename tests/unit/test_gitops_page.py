"""The health check for Argo CD that the page gives, run by the Lua that Argo CD speaks on statuses as they come."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from pgqrs_operator import verdicts
from pgqrs_operator.drafting import FROZEN
from pgqrs_operator.names import GROUP
from pgqrs_operator.verdicts import Verdict
from tests.support.markdown import blocks

PAGE = Path(__file__).parents[2] / "docs" / "gitops.md"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def health(resource: dict[str, Any]) -> tuple[str, str]:
    """What Argo CD says of a resource: a status and a message."""
    [block] = blocks(PAGE, "yaml")
    customizations = yaml.safe_load(yaml.safe_load(block.code)["data"]["resource.customizations"])
    [(whose, one)] = customizations.items()
    assert whose == f"{GROUP}/*"
    lua = LuaRuntime(unpack_returned_tuples=True)
    names = lua.globals()
    for library in ("debug", "io", "math", "os", "package", "string"):
        # Argo CD has none of them, unless somebody allows it.
        names[library] = None
    names["obj"] = lua.table_from(resource, recursive=True)
    answer: Any = lua.execute(one["health.lua"])
    return answer["status"], answer["message"]


def resource(verdict: Verdict, *, generation: int = 3, observed: int = 3) -> dict[str, Any]:
    """A resource as the operator leaves it."""
    told = verdicts.conditions(verdict, generation=observed, previous=(), now=NOW)
    return {
        "metadata": {"name": "emails", "generation": generation},
        "status": {"conditions": [dict(one) for one in told], "observedGeneration": observed},
    }


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (verdicts.ready("InSync", "as declared"), "Healthy"),
        (verdicts.ready(verdicts.CONTESTED, "again and again"), "Healthy"),
        (verdicts.waiting("Applying", "being made"), "Progressing"),
        (verdicts.stalled("SecretNotFound", "create it"), "Degraded"),
        (FROZEN, "Suspended"),
    ],
    ids=lambda one: one.reason if isinstance(one, Verdict) else one,
)
def test_each_verdict_has_its_health(verdict: Verdict, status: str) -> None:
    assert health(resource(verdict)) == (status, verdict.message)


def test_what_was_said_of_an_older_generation_says_nothing() -> None:
    status, message = health(resource(verdicts.ready("InSync", "as declared"), generation=4))
    assert (status, "not looked" in message) == ("Progressing", True)


@pytest.mark.parametrize("more", [{}, {"status": {}}, {"status": {"observedGeneration": 3, "conditions": []}}])
def test_a_resource_of_which_nothing_was_said_is_in_progress(more: dict[str, Any]) -> None:
    status, _ = health({"metadata": {"name": "emails", "generation": 3}, **more})
    assert status == "Progressing"
