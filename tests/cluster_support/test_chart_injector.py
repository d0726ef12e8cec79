"""The injector's part of the chart as helm renders it: its certificate, its rights, what it is told and asked about."""

from __future__ import annotations

from typing import Any

import pytest

from pgqrs_injection.settings import Injection
from pgqrs_injection.sidecar import SidecarDefaults
from pgqrs_operator.injector.settings import Settings
from tests.support.chart import find, render
from tests.support.cluster.errors import ClusterError

SECRET = "pgqrs-webhook-certificate"
CERT_MANAGER = {"injector": {"certificate": {"manager": "CertManager"}}}
ISSUER = {"name": "company", "kind": "ClusterIssuer", "group": "cert-manager.io"}


def environment(objects: list[dict[str, Any]], deployment: str) -> dict[str, str]:
    """The variables of a Deployment's one container, but those that Kubernetes fills in."""
    found = find(objects, "Deployment", deployment)
    assert found is not None
    [container] = found["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


def rules(objects: list[dict[str, Any]], account: str) -> list[dict[str, Any]]:
    """All that an account of the release may do."""
    bound = [
        (one["roleRef"]["kind"], one["roleRef"]["name"])
        for one in objects
        if one["kind"] in ("RoleBinding", "ClusterRoleBinding") and one["subjects"][0]["name"] == account
    ]
    found = [find(objects, kind, name) for kind, name in bound]
    return [rule for role in found if role is not None for rule in role["rules"] or []]


def may_touch(objects: list[dict[str, Any]], account: str, resource: str) -> list[str]:
    return sorted(
        verb
        for rule in rules(objects, account)
        if resource in rule["resources"] and ({SECRET, "pgqrs-injector"} & set(rule.get("resourceNames", ())))
        for verb in rule["verbs"]
    )


def test_the_operator_keeps_it_by_default() -> None:
    objects = render()
    secret = find(objects, "Secret", SECRET)
    webhook = find(objects, "MutatingWebhookConfiguration", "pgqrs-injector")
    assert secret is not None
    assert webhook is not None
    # Neither is Helm's, or an upgrade or a rollback would write back an old one.
    assert "data" not in secret
    assert "caBundle" not in webhook["webhooks"][0]["clientConfig"]
    assert "annotations" not in webhook["metadata"]
    assert environment(objects, "pgqrs-operator")["PGQRS_MANAGE_WEBHOOK"] == "true"
    assert may_touch(objects, "pgqrs-operator", "secrets") == ["get", "update"]
    assert may_touch(objects, "pgqrs-operator", "mutatingwebhookconfigurations") == ["get", "patch"]
    assert may_touch(objects, "pgqrs-injector", "secrets") == ["get"]
    assert not [one for one in objects if one["apiVersion"].startswith("cert-manager.io/")]


@pytest.mark.parametrize("issuer", [None, ISSUER], ids=["own authority", "issuer"])
def test_cert_manager_keeps_it_where_a_value_says_so(issuer: dict[str, str] | None) -> None:
    values = {"injector": {"certificate": {"manager": "CertManager", **({"issuerRef": issuer} if issuer else {})}}}
    objects = render(values)
    certificate = find(objects, "Certificate", SECRET)
    webhook = find(objects, "MutatingWebhookConfiguration", "pgqrs-injector")
    assert certificate is not None
    assert webhook is not None
    # It is for the name that the API server calls, and where the injectors look.
    service = webhook["webhooks"][0]["clientConfig"]["service"]
    assert certificate["spec"]["dnsNames"] == [f"{service['name']}.{service['namespace']}.svc"]
    assert certificate["spec"]["secretName"] == SECRET
    assert webhook["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": f"pgqrs-system/{SECRET}"}
    # Helm makes no Secret beside cert-manager's, and the operator keeps its hands off it.
    assert find(objects, "Secret", SECRET) is None
    assert environment(objects, "pgqrs-operator")["PGQRS_MANAGE_WEBHOOK"] == "false"
    assert may_touch(objects, "pgqrs-operator", "secrets") == []
    assert may_touch(objects, "pgqrs-operator", "mutatingwebhookconfigurations") == []
    assert may_touch(objects, "pgqrs-injector", "secrets") == ["get"]
    if issuer:
        assert certificate["spec"]["issuerRef"] == issuer
        assert [one["kind"] for one in objects if one["apiVersion"].startswith("cert-manager.io/")] == ["Certificate"]


def test_the_own_authority_of_cert_manager_signs_itself_and_the_certificate() -> None:
    objects = render(CERT_MANAGER)
    certificate = find(objects, "Certificate", SECRET)
    assert certificate is not None
    signer = find(objects, "Issuer", certificate["spec"]["issuerRef"]["name"])
    assert signer is not None
    authorities = [one for one in objects if one["kind"] == "Certificate" and one["spec"].get("isCA")]
    assert [one["spec"]["secretName"] for one in authorities] == [signer["spec"]["ca"]["secretName"]]
    root = find(objects, "Issuer", authorities[0]["spec"]["issuerRef"]["name"])
    assert root is not None
    assert root["spec"] == {"selfSigned": {}}


def test_there_are_two_injectors_of_which_one_goes_away_at_a_time() -> None:
    objects = render()
    deployment = find(objects, "Deployment", "pgqrs-injector")
    budget = find(objects, "PodDisruptionBudget", "pgqrs-injector")
    assert deployment is not None
    assert budget is not None
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert budget["spec"]["maxUnavailable"] == 1
    assert find(render({"injector": {"replicas": 1}}), "PodDisruptionBudget", "pgqrs-injector") is None


def test_the_webhook_is_asked_about_labelled_pods_alone() -> None:
    webhook = find(render({"injector": {"failurePolicy": "Fail"}}), "MutatingWebhookConfiguration", "pgqrs-injector")
    assert webhook is not None
    [one] = webhook["webhooks"]
    assert one["objectSelector"] == {"matchExpressions": [{"key": "pgqrs.io/queue", "operator": "Exists"}]}
    assert one["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
    ]
    [namespaces] = one["namespaceSelector"]["matchExpressions"]
    assert namespaces == {
        "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "pgqrs-system"]
    }  # fmt: skip
    assert (one["sideEffects"], one["reinvocationPolicy"]) == ("None", "IfNeeded")
    assert (one["failurePolicy"], one["timeoutSeconds"]) == ("Fail", 5)


@pytest.mark.parametrize(
    ("injector", "said"),
    [
        ({"certificate": {"manager": "Nobody"}}, "manager"),
        ({"certificate": {"issuerRef": {"nam": "x"}}}, "nam"),
        ({"unknownQueue": "admit"}, "unknownQueue"),
        ({"drainSeconds": 86401}, "drainSeconds"),
        ({"sidecar": {"heartbeatSeconds": 31}}, "heartbeatSeconds"),
        ({"sidecar": {"securityContext": {"runAs": 1}}}, "runAs"),
    ],
)
def test_values_that_are_not_allowed_are_refused(injector: dict[str, Any], said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        render({"injector": injector})


def test_the_injector_reads_what_the_chart_tells_it() -> None:
    usual = Settings.from_env(environment(render(), "pgqrs-injector"))
    assert usual == Settings(
        namespace="pgqrs-system",
        secret_name=SECRET,
        injection=Injection(image="docker.io/library/pgqrs-sidecar:0.1.0"),
    )
    values = {
        "clusterName": "west",
        "injector": {
            "unknownQueue": "Admit",
            "drainSeconds": 60,
            "raiseGracePeriod": False,
            # A null takes a default away.
            "sidecar": {"heartbeatSeconds": 9, "resources": {"limits": {"memory": None}, "requests": {"cpu": 1}}},
        },
    }
    told = Settings.from_env(environment(render(values), "pgqrs-injector"))
    assert told.admit_unknown_queue
    assert told.injection == Injection(
        image="docker.io/library/pgqrs-sidecar:0.1.0",
        cluster="west",
        drain_seconds=60,
        raise_grace_period=False,
        sidecar=SidecarDefaults(
            heartbeat_seconds=9, resources={"requests": {"cpu": "1", "memory": "48Mi"}, "limits": {}}
        ),
    )


def test_without_the_injector_nothing_of_it_is_there() -> None:
    for certificate in ({}, CERT_MANAGER["injector"]):
        objects = render({"injector": {"enabled": False, **certificate}})
        names = {one["metadata"]["name"] for one in objects}
        assert not [name for name in names if "injector" in name or "webhook" in name]
