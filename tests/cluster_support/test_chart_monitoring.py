"""What the chart renders for the Prometheus operator where a value asks for it: which pods, addresses, alerts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgqrs_injection.pods import inject
from tests.support.chart import CHART, NAMESPACE, find, render
from tests.support.cluster.errors import ClusterError
from tests.support.injected import QUEUE, SETTINGS, pod, sidecar_of
from tests.support.markdown import blocks

Body = dict[str, Any]

ALL = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
PERMISSIONS = Path(__file__).parents[2] / "docs" / "permissions.md"


def monitoring(values: Body | None = None) -> dict[tuple[str, str], Body]:
    """The objects for the Prometheus operator by kind and name."""
    return {
        (one["kind"], one["metadata"]["name"]): one
        for one in render(values)
        if one["apiVersion"] == "monitoring.coreos.com/v1"
    }


def selects(selector: Body, labels: dict[str, str]) -> bool:
    """Tell whether a label selector of Kubernetes takes an object with these labels."""
    tests = {"In": lambda one: labels.get(one["key"]) in one["values"], "Exists": lambda one: one["key"] in labels}
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        tests[one["operator"]](one) for one in selector.get("matchExpressions", ())
    )


def relabelled(rules: list[Body], labels: dict[str, str]) -> dict[str, str] | None:
    """What Prometheus makes of a target's labels, None where it drops it."""
    labels = dict(labels)
    for rule in rules:
        found = re.fullmatch(rule["regex"], ";".join(labels.get(name, "") for name in rule["sourceLabels"]))
        if rule.get("action") == "keep":
            if found is None:
                return None
        elif found is not None:
            labels[rule["targetLabel"]] = found.expand(re.sub(r"\$(\d)", r"\\\1", rule["replacement"]))
    return labels


def targets(of: Body, address: str) -> list[dict[str, str]]:
    """A pod's targets as Prometheus finds them: one for each container without a port, init containers too."""
    shared = {"__meta_kubernetes_pod_ip": address}
    for name, value in of["metadata"].get("annotations", {}).items():
        shared["__meta_kubernetes_pod_annotation_" + re.sub(r"\W", "_", name)] = value
    containers = [*of["spec"]["containers"], *of["spec"].get("initContainers", ())]
    assert not [one for one in containers if "ports" in one]
    return [
        {**shared, "__address__": address, "__meta_kubernetes_pod_container_name": one["name"]} for one in containers
    ]


def test_nothing_of_it_is_there_by_default() -> None:
    assert monitoring() == {}


def test_the_pods_of_operator_and_injector_are_scraped_and_no_other() -> None:
    objects = render({"metrics": ALL, "developmentPostgres": {"enabled": True}})
    monitor = find(objects, "PodMonitor", "pgqrs")
    assert monitor is not None
    # In its own namespace alone.
    assert (monitor["metadata"]["namespace"], monitor["spec"].get("namespaceSelector")) == (NAMESPACE, None)
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    # The series of a queue have its namespace.
    assert endpoint["honorLabels"]
    scraped = set()
    for one in objects:
        template = one.get("spec", {}).get("template")
        if template and selects(monitor["spec"]["selector"], template["metadata"]["labels"]):
            scraped.add(one["metadata"]["name"])
            [container] = template["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert ports[endpoint["port"]] == 8080
    assert scraped == {"pgqrs-operator", "pgqrs-injector"}


@pytest.mark.parametrize("annotations", [{}, {"pgqrs.io/http-port": "9290"}], ids=["usual port", "another port"])
@pytest.mark.parametrize(("address", "host"), [("10.0.0.7", "10.0.0.7"), ("fd00::7", "[fd00::7]")])
def test_the_sidecar_of_a_labelled_pod_is_scraped_where_it_listens(
    address: str, host: str, annotations: dict[str, str]
) -> None:
    spec = monitoring({"metrics": ALL})["PodMonitor", "pgqrs-sidecars"]["spec"]
    injected = inject(pod(annotations=annotations), QUEUE, SETTINGS)
    assert selects(spec["selector"], injected["metadata"]["labels"])
    assert not selects(spec["selector"], {})
    [endpoint] = spec["podMetricsEndpoints"]
    kept = [found for one in targets(injected, address) if (found := relabelled(endpoint["relabelings"], one))]
    # Its probes ask at the same port.
    port = sidecar_of(injected)["startupProbe"]["httpGet"]["port"]
    assert [one["__address__"] for one in kept] == [f"{host}:{port}"]
    assert str(port) == annotations.get("pgqrs.io/http-port", "9190")
    assert endpoint.get("path", "/metrics") == "/metrics"


@pytest.mark.parametrize(("watched", "where"), [("", {"any": True}), ("shop", {"matchNames": ["shop"]})])
def test_sidecars_are_scraped_where_queues_are_looked_after(watched: str, where: Body) -> None:
    found = monitoring({"watchNamespace": watched, "metrics": ALL})
    assert found["PodMonitor", "pgqrs-sidecars"]["spec"]["namespaceSelector"] == where


def test_sidecars_may_be_left_out() -> None:
    found = monitoring({"metrics": {"podMonitor": {"enabled": True, "sidecars": False}}})
    assert found.keys() == {("PodMonitor", "pgqrs")}


def test_the_rule_has_the_alerts_as_they_are() -> None:
    found = monitoring({"metrics": {"prometheusRule": {"enabled": True}}})
    assert found.keys() == {("PrometheusRule", "pgqrs")}
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
    assert found["PrometheusRule", "pgqrs"]["spec"] == alerts
    assert "{{ $labels.queue }}" in str(alerts)


def test_all_of_it_has_the_labels_by_which_prometheus_selects() -> None:
    found = monitoring({"metrics": {**ALL, "labels": {"release": "prometheus"}}})
    assert len(found) == 3
    for one in found.values():
        labels = one["metadata"]["labels"]
        assert (labels["release"], labels["app.kubernetes.io/instance"]) == ("prometheus", "pgqrs")


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"podMonitor": {"enabled": "yes"}}, "enabled"),
        ({"serviceMonitor": {"enabled": True}}, "serviceMonitor"),
        ({"labels": {"release": 1}}, "release"),
    ],
)
def test_values_that_are_not_allowed_are_refused(metrics: Body, said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        render({"metrics": metrics})


def test_the_network_policy_of_the_page_lets_through_what_is_needed() -> None:
    [block] = [one for one in blocks(PERMISSIONS, "yaml") if one.heading == "Who may reach it"]
    policy = yaml.safe_load(block.code)
    [rule] = policy["spec"]["ingress"]
    deployment = find(render(), "Deployment", "pgqrs-operator")
    assert deployment is not None
    template = deployment["spec"]["template"]
    assert policy["metadata"]["namespace"] == NAMESPACE
    assert selects(policy["spec"]["podSelector"], template["metadata"]["labels"])
    [container] = template["spec"]["containers"]
    assert {one["port"] for one in rule["ports"]} == {one["containerPort"] for one in container["ports"]}
    # A follower leads to the leader, and itself asks nobody.
    assert policy["spec"]["policyTypes"] == ["Ingress"]
