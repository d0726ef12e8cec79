"""Pods that a sidecar cannot work in are refused, and the message says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from pgqrs_injection.errors import RefusedError
from pgqrs_injection.pods import inject
from tests.support.injected import QUEUE, SETTINGS, pod


def affinity(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    """A required node affinity of these alternatives."""
    required = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


WINDOWS = {"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}
FAST = {"key": "disk", "operator": "In", "values": ["fast"]}


def test_the_hosts_network_is_refused() -> None:
    with pytest.raises(RefusedError, match="hostNetwork"):
        inject(pod(hostNetwork=True), QUEUE, SETTINGS)


def test_a_plain_container_with_the_sidecars_name_is_refused() -> None:
    with pytest.raises(RefusedError, match="pgqrs-sidecar"):
        inject(pod({"name": "pgqrs-sidecar"}), QUEUE, SETTINGS)


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"os": {"name": "windows"}}, "spec.os.name"),
        ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "nodeSelector kubernetes.io/os"),
        ({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}, "nodeSelector beta.kubernetes.io/os"),
        ({"affinity": affinity([WINDOWS])}, "nodeAffinity"),
        ({"affinity": affinity([FAST, WINDOWS], [WINDOWS])}, "nodeAffinity"),
    ],
)
def test_a_pod_for_windows_is_refused(spec: dict[str, Any], place: str) -> None:
    with pytest.raises(RefusedError) as caught:
        inject(pod(**spec), QUEUE, SETTINGS)
    assert place in str(caught.value)
    assert "pgqrs.io/queue" in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        {"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "linux"}},
        {"affinity": affinity([WINDOWS], [FAST])},
        {"affinity": affinity([{**WINDOWS, "operator": "NotIn"}])},
        {"affinity": affinity([{**WINDOWS, "values": ["linux", "windows"]}])},
        {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
        {"affinity": None},
    ],
)
def test_a_pod_that_may_run_on_linux_is_not_refused(spec: dict[str, Any]) -> None:
    assert inject(pod(**spec), QUEUE, SETTINGS)


@pytest.mark.parametrize(("port", "annotation"), [(9190, "pgqrs.io/http-port"), (9191, "pgqrs.io/session-port")])
@pytest.mark.parametrize("initial", [False, True])
def test_a_container_with_a_port_of_the_sidecar_is_refused_with_what_to_do(
    port: int, annotation: str, *, initial: bool
) -> None:
    other = {"name": "metrics", "ports": [{"containerPort": 9192}, {"containerPort": port, "protocol": "TCP"}]}
    given = pod({"name": "app"}, initContainers=[other]) if initial else pod(other)
    with pytest.raises(RefusedError) as caught:
        inject(given, QUEUE, SETTINGS)
    said = str(caught.value)
    assert f"container metrics has the port {port}" in said
    # What it says helps.
    suggested = said.partition(f"{annotation}: ")[2].strip('".')
    given["metadata"]["annotations"] = {annotation: suggested}
    assert inject(given, QUEUE, SETTINGS)


def test_a_port_of_another_protocol_is_free() -> None:
    assert inject(pod({"name": "app", "ports": [{"containerPort": 9190, "protocol": "UDP"}]}), QUEUE, SETTINGS)
