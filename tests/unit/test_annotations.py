"""What can be written on a pod: every annotation is validated, documented and has its effect."""

from __future__ import annotations

import ast
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import pgqrs_injection
from pgqrs_injection import quantities, table
from pgqrs_injection.errors import RefusedError
from pgqrs_injection.names import GROUP
from pgqrs_injection.pods import inject
from pgqrs_injection.settings import Injection, QueueTarget
from pgqrs_injection.sidecar import SidecarDefaults
from tests.golden.making import PAGE, made

QUEUE = QueueTarget(queue="emails", secret="pgqrs", key="dsn")
SETTINGS = Injection(image="example.test/sidecar:1")


def injected(settings: Injection = SETTINGS, /, **said: str) -> dict[str, Any]:
    """A pod of two containers after its injection; annotations are given without the prefix, `_` for `-`."""
    pod = {
        "metadata": {
            "labels": {"pgqrs.io/queue": "emails"},
            "annotations": {f"{GROUP}/{name.replace('_', '-')}": value for name, value in said.items()},
        },
        "spec": {"containers": [{"name": "app"}, {"name": "helper"}]},
    }
    return inject(pod, QUEUE, settings)


def sidecar(settings: Injection = SETTINGS, /, **said: str) -> dict[str, Any]:
    found: dict[str, Any] = injected(settings, **said)["spec"]["initContainers"][0]
    return found


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container["env"]}


BAD = {
    "drain-seconds": ["", "0", "-1", "86401", "1.5", "25s", "ten", "\u0663", "9" * 5000, " 25"],
    "heartbeat-seconds": ["0", "31", "5s", ""],
    "connection-mode": ["", "shortlived", "Persistent", "none"],
    "start-without-database": ["", "yes", "True", "1"],
    "log-level": ["", "info", "TRACE"],
    "http-port": ["0", "80", "1023", "65536", "http", ""],
    "session-port": ["0", "65536", "9191/tcp"],
    "containers": ["", ",", "app,", "app,,helper", "App", "a b", "-app", "a" * 64],
    "inject-dsn": ["", "no", "FALSE"],
    "sidecar-cpu-request": ["", "none", "-1", "1 core", "0", "10mm", "1" * 40],
    "sidecar-memory-request": ["", "none", "64MB", "64m", "1Ki"],
    "sidecar-cpu-limit": ["", "None", "0", "unlimited"],
    "sidecar-memory-limit": ["", "None", "0", "64 Mi"],
}


def test_every_annotation_is_tried_with_bad_values() -> None:
    assert BAD.keys() == {annotation.name for annotation in table.TABLE}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_with_name_value_and_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(RefusedError) as caught:
        injected(**{name: value})
    said = str(caught.value)
    [annotation] = [one for one in table.TABLE if one.name == name]
    assert f"pgqrs.io/{name}" in said
    assert repr(value[:40]) in said
    assert annotation.kind.allowed in said
    assert len(said) < 300


@pytest.mark.parametrize("annotation", table.TABLE, ids=lambda annotation: str(annotation.name))
def test_every_example_is_allowed(annotation: table.Annotation[Any]) -> None:
    assert injected(**{annotation.name: annotation.example})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("drain-second", "Did you mean pgqrs.io/drain-seconds?"),
        ("drainSeconds", "Did you mean pgqrs.io/drain-seconds?"),
        ("sidecar-cpu", "pgqrs.io/sidecar-cpu-limit"),
        ("queue", "pgqrs.io/queue is a label"),
        ("zzz", "There are pgqrs.io/drain-seconds, "),
    ],
)
def test_an_unknown_annotation_is_refused_and_near_ones_are_named(name: str, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        injected(**{name: "1"})
    assert f"pgqrs.io/{name}" in str(caught.value)
    assert said in str(caught.value)


def test_what_others_write_is_none_of_our_business() -> None:
    pod = {
        "metadata": {
            "annotations": {"pgqrs.io.example/x": "", "other/pgqrs.io": "", "pgqrs.io/paused-reconciliation": ""}
        },
        "spec": {"containers": [{"name": "app"}]},
    }
    assert inject(pod, QUEUE, SETTINGS)


def test_what_the_sidecar_is_told() -> None:
    found = environment(
        sidecar(
            heartbeat_seconds="9",
            connection_mode="shortLived",
            log_level="DEBUG",
            drain_seconds="7",
        )
    )
    assert found["PGQRS_HEARTBEAT_SECONDS"] == "9"
    assert found["PGQRS_CONNECTION_MODE"] == "shortLived"
    assert found["PGQRS_LOG_LEVEL"] == "DEBUG"
    assert found["PGQRS_DRAIN_SECONDS"] == "7"


def test_app_and_sidecar_are_told_that_the_database_may_come_later() -> None:
    pod = injected(start_without_database="true")
    for container in [*pod["spec"]["containers"], *pod["spec"]["initContainers"]]:
        assert environment(container)["PGQRS_START_WITHOUT_DATABASE"] == "true"


def test_an_annotation_wins_over_the_installation() -> None:
    settings = Injection(image="i", sidecar=SidecarDefaults(start_without_database=True, heartbeat_seconds=20))
    found = environment(sidecar(settings, start_without_database="false"))
    assert "PGQRS_START_WITHOUT_DATABASE" not in found
    assert found["PGQRS_HEARTBEAT_SECONDS"] == "20"


def test_ports_reach_everything_that_uses_them() -> None:
    pod = injected(http_port="9500", session_port="9501")
    [made_sidecar] = pod["spec"]["initContainers"]
    found = environment(made_sidecar)
    assert (found["PGQRS_SIDECAR_HTTP_PORT"], found["PGQRS_SIDECAR_SESSION_PORT"]) == ("9500", "9501")
    assert made_sidecar["startupProbe"]["httpGet"]["port"] == 9500
    for container in [*pod["spec"]["containers"], made_sidecar]:
        assert container["lifecycle"]["preStop"]["httpGet"]["port"] == 9500
        assert environment(container)["PGQRS_SIDECAR"] == "127.0.0.1:9501"


def test_one_port_for_both_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"http-port or pgqrs\.io/session-port"):
        injected(http_port="9191")


def test_only_the_containers_that_are_named_are_changed() -> None:
    pod = injected(containers=" helper ")
    app, helper = pod["spec"]["containers"]
    assert app == {"name": "app"}
    assert environment(helper)["PGQRS_CONTAINER"] == "helper"
    assert "preStop" in helper["lifecycle"]


@pytest.mark.parametrize(("named", "said"), [("ap", "Did you mean app?"), ("app, zzz", "The pod has app, helper.")])
def test_a_container_that_is_not_there_is_refused(named: str, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        injected(containers=named)
    assert "pgqrs.io/containers" in str(caught.value)
    assert said in str(caught.value)


def test_the_address_of_the_database_can_be_left_to_the_author() -> None:
    pod = injected(inject_dsn="false")
    for container in pod["spec"]["containers"]:
        assert "PGQRS_DSN" not in environment(container)
        assert "PGQRS_QUEUE" in environment(container)
    assert "PGQRS_DSN" in environment(pod["spec"]["initContainers"][0])


def test_resources_of_the_sidecar() -> None:
    said = {
        "sidecar_cpu_request": "10m",
        "sidecar_memory_request": "100Mi",
        "sidecar_cpu_limit": "0.5",
        "sidecar_memory_limit": "1.5e8",
    }
    assert sidecar(**said)["resources"] == {
        "requests": {"cpu": "10m", "memory": "100Mi"},
        "limits": {"cpu": "0.5", "memory": "1.5e8"},
    }
    assert sidecar(sidecar_memory_limit="none")["resources"] == {"requests": {"cpu": "5m", "memory": "48Mi"}}


def test_a_request_above_its_limit_is_refused_with_both_annotations() -> None:
    with pytest.raises(RefusedError) as caught:
        injected(sidecar_memory_request="97Mi")
    said = str(caught.value)
    assert "97Mi is more than its limit 96Mi" in said
    assert "pgqrs.io/sidecar-memory-request and pgqrs.io/sidecar-memory-limit" in said
    assert injected(sidecar_memory_request="97Mi", sidecar_memory_limit="97Mi")
    assert injected(sidecar_memory_request="97Mi", sidecar_memory_limit="none")


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1", 1),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("5n", "5e-9"),
        ("100m", "0.1"),
        ("1k", 1000),
        ("1Ki", 1024),
        ("2Mi", 2097152),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("1e3", 1000),
        ("1E-3", "0.001"),
    ],
)
def test_quantities_mean_what_kubernetes_says(text: str, amount: int | str) -> None:
    assert quantities.amount(text) == Decimal(amount)


def test_the_page_is_what_the_table_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == made()[PAGE], "run `.venv/bin/python -m tests.golden`"
    for annotation in table.TABLE:
        assert f"## `{annotation.key}`" in made()[PAGE]


def test_the_injection_needs_the_standard_library_alone() -> None:
    package = Path(pgqrs_injection.__file__).parent
    imported = set()
    for path in package.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported <= {*sys.stdlib_module_names, "pgqrs_injection"}
