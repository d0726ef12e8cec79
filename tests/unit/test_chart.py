"""What the chart says about itself, as far as no helm is needed for it; what it renders is tested on a cluster."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgqrs_injection import table
from pgqrs_injection.errors import ConfigurationError
from pgqrs_injection.settings import Injection
from pgqrs_injection.sidecar import SidecarDefaults

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pgqrs"
VALUES_TEXT = (CHART / "values.yaml").read_text(encoding="utf-8")
VALUES: dict[str, Any] = yaml.safe_load(VALUES_TEXT)
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def test_chart_and_project_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def names(schema: dict[str, Any], prefix: str = "") -> set[str]:
    """The paths that the schema knows by name."""
    found = set()
    for name, child in resolved(schema).get("properties", {}).items():
        found |= {prefix + name} | names(child, f"{prefix}{name}.")
    return found


def paths(values: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> set[str]:
    """The paths of the defaults, as deep as the schema goes by name."""
    found = set()
    for name, value in values.items():
        found.add(prefix + name)
        child = resolved(resolved(schema).get("properties", {}).get(name, {}))
        if isinstance(value, dict) and "properties" in child:
            found |= paths(value, child, f"{prefix}{name}.")
    return found


def test_schema_and_defaults_name_the_same_values() -> None:
    # `global` is what Helm hands to charts within charts.
    assert names(SCHEMA) - {"global"} == paths(VALUES, SCHEMA)


def closed(schema: dict[str, Any], path: str = "") -> list[str]:
    """The objects with names in them that would let a misspelt one pass."""
    own = [path] if "properties" in schema and schema.get("additionalProperties") is not False else []
    return own + [
        problem
        for name, child in schema.get("properties", {}).items()
        for problem in closed(resolved(child), f"{path}.{name}")
    ]


def test_no_misspelt_value_passes() -> None:
    assert closed(SCHEMA) == []


def test_patterns_of_the_schema_accept_the_defaults() -> None:
    def check(value: Any, schema: dict[str, Any], path: str) -> None:
        schema = resolved(schema)
        if isinstance(value, dict):
            for name, child in value.items():
                rest = schema.get("additionalProperties")
                check(
                    child,
                    schema.get("properties", {}).get(name, rest if isinstance(rest, dict) else {}),
                    f"{path}.{name}",
                )
        elif isinstance(value, str) and "pattern" in schema:
            assert re.search(schema["pattern"], value), path

    check(VALUES, SCHEMA, "values")


def test_chart_and_code_have_one_default_for_sidecars() -> None:
    values = VALUES["injector"]["sidecar"]
    assert set(values) == set(SCHEMA["properties"]["injector"]["properties"]["sidecar"]["properties"])
    assert SidecarDefaults.from_json(json.dumps(values), source="values.yaml") == SidecarDefaults()
    injection = Injection(image="i")
    assert VALUES["injector"]["drainSeconds"] == injection.drain_seconds
    assert VALUES["injector"]["raiseGracePeriod"] == injection.raise_grace_period


def test_schema_and_injector_allow_the_same() -> None:
    schema = SCHEMA["properties"]["injector"]["properties"]
    sidecar = schema["sidecar"]["properties"]

    def read(field: str, value: Any) -> SidecarDefaults:
        return SidecarDefaults.from_json(json.dumps({field: value}), source="values.yaml")

    for field in ("connectionMode", "logLevel"):
        for value in sidecar[field]["enum"]:
            read(field, value)
        with pytest.raises(ConfigurationError, match=str(sidecar[field]["enum"][-1])):
            read(field, "other")
    beat = sidecar["heartbeatSeconds"]
    assert table.HEARTBEAT.allowed.endswith(f"from {beat['minimum']} to {beat['maximum']}")
    drain = schema["drainSeconds"]
    assert table.DRAIN.allowed.endswith(f"from {drain['minimum']} to {drain['maximum']}")
    for name in sidecar["securityContext"]["propertyNames"]["enum"]:
        read("securityContext", {name: None, "runAsNonRoot": True})
    with pytest.raises(ConfigurationError):
        read("securityContext", {"other": 1})


@pytest.mark.parametrize("part", ["operator", "sidecar"])
def test_images_start_from_one_base(part: str) -> None:
    stages = re.findall(r"^FROM (\S+)", (ROOT / "deploy" / "images" / part / "Dockerfile").read_text(), re.MULTILINE)
    assert set(stages) == {"docker.io/library/python:3.11-slim-bookworm"}


@pytest.mark.parametrize("part", ["operator", "sidecar"])
def test_images_get_every_package(part: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {path.partition("/")[0] for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    recipe = (ROOT / "deploy" / "images" / part / "Dockerfile").read_text(encoding="utf-8")
    assert packages == set(re.findall(r"^COPY (\w+) \1$", recipe, re.MULTILINE))
    assert packages <= set((ROOT / ".dockerignore").read_text(encoding="utf-8").replace("!", "").splitlines())
