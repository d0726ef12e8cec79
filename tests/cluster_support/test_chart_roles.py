"""What the operator may do in a cluster, as the chart renders it: what it needs, by Roles alone where that is asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.chart import NAMESPACE, find, render
from tests.support.cluster.errors import ClusterError

Body = dict[str, Any]

#: Kinds that belong to no namespace.
_CLUSTER = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
}
_ONE = {"watchNamespace": "shop"}
_CERT_MANAGER = {"injector": {"certificate": {"manager": "CertManager"}}}
_NO_INJECTOR = {"injector": {"enabled": False}}
_NO_CRDS = {"crds": {"install": False}}


def clusterwide(objects: list[Body]) -> set[str]:
    return {one["kind"] for one in objects} & _CLUSTER


def rules(objects: list[Body]) -> list[Body]:
    return [rule for one in objects if one["kind"] in {"Role", "ClusterRole"} for rule in one["rules"] or []]


def roles(objects: list[Body]) -> dict[str, set[str]]:
    """The namespaces of the roles by their names; an empty one for all."""
    found: dict[str, set[str]] = {}
    for one in objects:
        if one["kind"] in {"Role", "ClusterRole"}:
            found.setdefault(one["metadata"]["name"], set()).add(one["metadata"].get("namespace", ""))
    return found


def test_without_a_namespace_all_are_looked_after() -> None:
    found = roles(render())
    assert found["pgqrs-operator"] == {""}
    assert found["pgqrs-operator-own"] == {NAMESPACE}


@pytest.mark.parametrize("more", [_CERT_MANAGER, _NO_INJECTOR], ids=["cert-manager", "no injector"])
def test_with_a_namespace_there_are_roles_alone(more: Body) -> None:
    objects = render({**_ONE, **more})
    assert not clusterwide(objects) & {"ClusterRole", "ClusterRoleBinding"}
    assert roles(objects)["pgqrs-operator"] == {"shop"}
    # Each role is bound, in its own namespace, to an account of the release.
    for one in objects:
        if one["kind"] == "Role":
            name, namespace = one["metadata"]["name"], one["metadata"]["namespace"]
            binding = find(objects, "RoleBinding", name)
            assert binding is not None
            assert binding["metadata"]["namespace"] == namespace
            assert binding["roleRef"] == {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": name,
            }
            assert {subject["namespace"] for subject in binding["subjects"]} == {NAMESPACE}


def test_with_a_namespace_the_one_clusterrole_is_that_for_the_webhook() -> None:
    objects = render(_ONE)
    (role,) = [one for one in objects if one["kind"] == "ClusterRole"]
    assert role["rules"] == [
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "resourceNames": ["pgqrs-injector"],
            "verbs": ["get", "patch"],
        }
    ]


def test_who_may_make_nothing_for_a_whole_cluster_can_install_it() -> None:
    """Somebody else has brought the CRDs."""
    objects = render({**_ONE, **_NO_INJECTOR, **_NO_CRDS})
    assert not clusterwide(objects)
    assert {one["metadata"]["namespace"] for one in objects} == {NAMESPACE, "shop"}
    assert not [one for one in objects if one["metadata"]["name"].startswith("pgqrs-injector")]
    deployment = find(objects, "Deployment", "pgqrs-operator")
    assert deployment is not None
    environment = {
        one["name"]: one.get("value") for one in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert environment["PGQRS_WATCH_NAMESPACE"] == "shop"
    assert environment["PGQRS_MANAGE_WEBHOOK"] == "false"


def test_without_an_injector_the_release_s_own_namespace_may_be_looked_after() -> None:
    own = {"watchNamespace": NAMESPACE}
    with pytest.raises(ClusterError, match="watchNamespace is the release's own namespace"):
        render(own)
    assert roles(render({**own, **_NO_INJECTOR}))["pgqrs-operator"] == {NAMESPACE}


@pytest.mark.parametrize("values", [{}, _ONE, {**_ONE, **_NO_INJECTOR}], ids=["all", "one", "no injector"])
def test_secrets_are_read_by_name_alone(values: Body) -> None:
    about_secrets = [rule for rule in rules(render(values)) if "secrets" in rule["resources"]]
    assert about_secrets
    for rule in about_secrets:
        assert rule["resourceNames"]
        assert not set(rule["verbs"]) & {"list", "watch", "create", "delete", "*"}


def test_the_secrets_that_may_be_read_are_those_of_the_value() -> None:
    objects = render({"rbac": {"secretNames": ["emails-app", "pgqrs"]}})
    role = find(objects, "ClusterRole", "pgqrs-operator")
    assert role is not None
    (rule,) = [rule for rule in role["rules"] if "secrets" in rule["resources"]]
    assert (rule["resourceNames"], rule["verbs"]) == (["emails-app", "pgqrs"], ["get"])


def test_nobody_may_do_everything() -> None:
    for rule in rules(render()):
        for part in ("apiGroups", "resources", "verbs"):
            assert "*" not in rule[part]
        assert not set(rule["verbs"]) & {"escalate", "bind", "impersonate", "deletecollection"}
        assert not {"pods/exec", "pods/attach", "serviceaccounts/token", "nodes"} & set(rule["resources"])


def test_an_operator_may_hold_its_own_lease_and_no_other() -> None:
    objects = render(_ONE)
    lease = find(objects, "Lease", "pgqrs-operator")
    assert lease is not None
    # It is the operator's: an upgrade must not take it away from the one that holds it.
    assert "spec" not in lease
    role = find(objects, "Role", "pgqrs-operator-own")
    assert role is not None
    about = [rule for rule in role["rules"] if "leases" in rule["resources"]]
    assert {verb: rule.get("resourceNames") for rule in about for verb in rule["verbs"]} == {
        "create": None,
        "get": ["pgqrs-operator"],
        "watch": ["pgqrs-operator"],
        "update": ["pgqrs-operator"],
    }
    assert sum("leases" in rule["resources"] for rule in rules(objects)) == len(about)


def test_two_operators_stand_by_each_other() -> None:
    objects = render()
    deployment = find(objects, "Deployment", "pgqrs-operator")
    budget = find(objects, "PodDisruptionBudget", "pgqrs-operator")
    assert deployment is not None
    assert budget is not None
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    environment = {one["name"]: one for one in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    # By which each knows who it is.
    paths = [environment[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in ("PGQRS_POD_NAME", "PGQRS_POD_IP")]
    assert paths == ["metadata.name", "status.podIP"]


def test_one_operator_alone_keeps_no_node_from_being_drained() -> None:
    objects = render({"operator": {"replicas": 1}})
    assert find(objects, "PodDisruptionBudget", "pgqrs-operator") is None


@pytest.mark.parametrize("replicas", [0, 11, "two"])
def test_no_operator_at_all_is_no_value(replicas: object) -> None:
    with pytest.raises(ClusterError, match="replicas"):
        render({"operator": {"replicas": replicas}})
