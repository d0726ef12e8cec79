"""What the chart renders for Prometheus and autoscalers, and what the operator may do to pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.chart import NAMESPACE, find, render
from tests.support.cluster.errors import ClusterError

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "keda" / "scaledobject.yaml"
OPERATOR = "pgqrs-operator"


def _environment(objects: list[dict[str, Any]]) -> dict[str, str]:
    found = find(objects, "Deployment", OPERATOR)
    assert found is not None
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


def _pod_verbs(objects: list[dict[str, Any]], kind: str = "ClusterRole") -> list[str]:
    role = find(objects, kind, OPERATOR)
    assert role is not None
    (verbs,) = [rule["verbs"] for rule in role["rules"] if rule["resources"] == ["pods"]]
    return list(verbs)


def test_the_example_for_keda_reaches_the_operators_pods() -> None:
    objects = render()
    service = find(objects, "Service", OPERATOR)
    deployment = find(objects, "Deployment", OPERATOR)
    assert service is not None
    assert deployment is not None
    (trigger,) = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["spec"]["triggers"]
    (port,) = service["spec"]["ports"]
    assert urlsplit(trigger["metadata"]["url"]).netloc == f"{OPERATOR}.{NAMESPACE}:{port['port']}"
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert str(ports[port["targetPort"]]) == _environment(objects)["PGQRS_HEALTH_PORT"]


def test_pods_are_only_read_by_default() -> None:
    objects = render()
    assert _pod_verbs(objects) == ["get", "list", "watch"]
    assert _environment(objects)["PGQRS_POD_DELETION_COST"] == "false"
    assert _environment(objects)["PGQRS_METRICS_QUEUES"] == "1000"


@pytest.mark.parametrize(("namespace", "kind"), [("", "ClusterRole"), ("shop", "Role")])
def test_the_cost_of_deletion_is_a_choice(namespace: str, kind: str) -> None:
    objects = render({"watchNamespace": namespace, "operator": {"podDeletionCost": True, "metricsQueues": 100_000}})
    assert _pod_verbs(objects, kind) == ["get", "list", "watch", "patch"]
    assert _environment(objects)["PGQRS_POD_DELETION_COST"] == "true"
    assert _environment(objects)["PGQRS_METRICS_QUEUES"] == "100000"


@pytest.mark.parametrize("value", [{"podDeletionCost": "yes"}, {"metricsQueues": -1}, {"metricsQueues": 100_001}])
def test_what_makes_no_sense_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ClusterError):
        render({"operator": value})
