"""The pure part of the injector: which pod comes out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqrs_operator.injector import pods
from pgqrs_operator.injector.errors import RefusedError
from pgqrs_operator.injector.pods import QueueTarget, inject
from pgqrs_operator.injector.settings import Injection

QUEUE = QueueTarget(queue="emails", secret="pgqrs", key="dsn")
SETTINGS = Injection(image="example.test/sidecar:1")


def pod(*containers: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"generateName": "web-", "labels": {"pgqrs.io/queue": "emails"}}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {
        "metadata": metadata,
        "spec": {"containers": list(containers) or [{"name": "app", "image": "app:1"}], **spec},
    }


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def sidecar_of(injected: dict[str, Any]) -> dict[str, Any]:
    [found] = [c for c in injected["spec"]["initContainers"] if c["name"] == "pgqrs-sidecar"]
    assert isinstance(found, dict)
    return found


def test_every_app_container_gets_the_whole_environment() -> None:
    injected = inject(pod({"name": "app"}, {"name": "helper"}), QUEUE, SETTINGS)
    first, second = injected["spec"]["containers"]
    found = environment(first)
    token = found.pop("PGQRS_SIDECAR_TOKEN")
    assert len(token) >= 32
    assert found == {
        "PGQRS_DSN": {"secretKeyRef": {"name": "pgqrs", "key": "dsn"}},
        "PGQRS_QUEUE": "emails",
        "PGQRS_POD_NAME": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        "PGQRS_POD_NAMESPACE": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        "PGQRS_POD_UID": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}},
        "PGQRS_HOSTNAME": "$(PGQRS_POD_NAME).$(PGQRS_POD_NAMESPACE)",
        "PGQRS_CONTAINER": "app",
        "PGQRS_SIDECAR": "127.0.0.1:9191",
    }
    assert environment(second)["PGQRS_CONTAINER"] == "helper"
    assert environment(second)["PGQRS_SIDECAR_TOKEN"] == token


def test_names_that_are_referred_to_stand_further_up() -> None:
    injected = inject(pod(), QUEUE, SETTINGS)
    for container in [*injected["spec"]["containers"], sidecar_of(injected)]:
        names = [variable["name"] for variable in container["env"]]
        assert names.index("PGQRS_POD_NAME") < names.index("PGQRS_HOSTNAME")
        assert names.index("PGQRS_POD_NAMESPACE") < names.index("PGQRS_HOSTNAME")


def test_schema_and_cluster_are_set_where_they_are_not_the_usual() -> None:
    queue = QueueTarget(queue="emails", secret="db", key="uri", schema="jobs")
    injected = inject(pod(), queue, Injection(image="i", cluster="west"))
    for container in [*injected["spec"]["containers"], sidecar_of(injected)]:
        found = environment(container)
        assert found["PGQRS_DSN"] == {"secretKeyRef": {"name": "db", "key": "uri"}}
        assert found["PGQRS_SCHEMA"] == "jobs"
        assert found["PGQRS_CLUSTER"] == "west"
        assert found["PGQRS_HOSTNAME"] == "$(PGQRS_POD_NAME).$(PGQRS_POD_NAMESPACE).west"


def test_a_dollar_in_a_name_is_no_reference() -> None:
    queue = QueueTarget(queue="a$(PGQRS_DSN)", secret="pgqrs", key="dsn", schema="x$y")
    found = environment(inject(pod(), queue, SETTINGS)["spec"]["containers"][0])
    assert found["PGQRS_QUEUE"] == "a$$(PGQRS_DSN)"
    assert found["PGQRS_SCHEMA"] == "x$$y"


def test_the_sidecar_is_a_native_one_without_rights() -> None:
    sidecar = sidecar_of(inject(pod(), QUEUE, SETTINGS))
    found = environment(sidecar)
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["image"] == "example.test/sidecar:1"
    assert found["PGQRS_CONTAINER"] == "pgqrs-sidecar"
    assert (found["PGQRS_SIDECAR_HTTP_PORT"], found["PGQRS_SIDECAR_SESSION_PORT"]) == ("9190", "9191")
    assert (found["PGQRS_DRAIN_SECONDS"], found["PGQRS_HEARTBEAT_SECONDS"]) == ("25", "5")
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/started", "port": 9190, "scheme": "HTTP"}
    assert sidecar["startupProbe"]["failureThreshold"] * sidecar["startupProbe"]["periodSeconds"] == 120
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/live"
    assert sidecar["resources"] == {"requests": {"cpu": "5m", "memory": "48Mi"}, "limits": {"memory": "96Mi"}}
    assert sidecar["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsGroup": 65532,
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_all_hooks_carry_the_token_of_the_pod() -> None:
    injected = inject(pod({"name": "app"}, {"name": "helper"}), QUEUE, SETTINGS)
    sidecar = sidecar_of(injected)
    wanted = f"/drain?token={environment(sidecar)['PGQRS_SIDECAR_TOKEN']}"
    for container in [*injected["spec"]["containers"], sidecar]:
        assert container["lifecycle"]["preStop"]["httpGet"] == {"path": wanted, "port": 9190, "scheme": "HTTP"}


def test_two_pods_have_two_tokens() -> None:
    tokens = {environment(sidecar_of(inject(pod(), QUEUE, SETTINGS)))["PGQRS_SIDECAR_TOKEN"] for _ in range(2)}
    assert len(tokens) == 2


def test_the_sidecar_starts_after_the_proxies_it_may_need() -> None:
    proxy = {"name": "cloud-sql-proxy", "restartPolicy": "Always"}
    injected = inject(pod(initContainers=[{"name": "migrate"}, proxy]), QUEUE, SETTINGS)
    assert [c["name"] for c in injected["spec"]["initContainers"]] == ["migrate", "cloud-sql-proxy", "pgqrs-sidecar"]
    assert injected["spec"]["initContainers"][1] == proxy


def test_what_the_author_wrote_stays() -> None:
    written = {
        "name": "app",
        "env": [
            {"name": "PGQRS_DSN", "value": "postgresql://elsewhere/db"},
            {"name": "PGQRS_POD_NAME", "value": "me"},
            {"name": "MODE", "value": "fast"},
        ],
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}, "postStart": {"exec": {"command": ["true"]}}},
    }
    injected = inject(pod(written, annotations={"a": "b"}, nodeName="n"), QUEUE, SETTINGS)
    container = injected["spec"]["containers"][0]
    assert container["env"][:3] == written["env"]
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    assert container["lifecycle"] == written["lifecycle"]
    assert injected["metadata"]["annotations"] == {"a": "b", "pgqrs.io/injected": "v1"}
    assert injected["spec"]["nodeName"] == "n"


def test_a_post_start_hook_does_not_cost_the_pre_stop_hook() -> None:
    hook = {"postStart": {"exec": {"command": ["true"]}}}
    container = inject(pod({"name": "app", "lifecycle": hook}), QUEUE, SETTINGS)["spec"]["containers"][0]
    assert set(container["lifecycle"]) == {"postStart", "preStop"}


def test_a_token_of_the_author_is_replaced_because_it_would_open_nothing() -> None:
    written = {"name": "app", "env": [{"name": "PGQRS_SIDECAR_TOKEN", "value": "guessed"}]}
    injected = inject(pod(written), QUEUE, SETTINGS)
    found = environment(injected["spec"]["containers"][0])["PGQRS_SIDECAR_TOKEN"]
    assert found == environment(sidecar_of(injected))["PGQRS_SIDECAR_TOKEN"] != "guessed"


def test_a_sidecar_that_the_author_began_is_completed() -> None:
    begun = {"name": "pgqrs-sidecar", "resources": {"limits": {"memory": "200Mi"}}}
    injected = inject(pod(initContainers=[begun, {"name": "other"}]), QUEUE, SETTINGS)
    assert [c["name"] for c in injected["spec"]["initContainers"]] == ["pgqrs-sidecar", "other"]
    sidecar = sidecar_of(injected)
    assert sidecar["resources"] == {"limits": {"memory": "200Mi"}}
    assert sidecar["restartPolicy"] == "Always"
    assert "PGQRS_DSN" in environment(sidecar)


@pytest.mark.parametrize(
    ("grace", "drain", "wanted"),
    [
        (None, None, None),  # 30 s are what Kubernetes gives, and 25 + 5 fit in
        (30, None, 30),
        (29, None, 35),
        (5, None, 35),
        (None, "60", 70),
        (65, "60", 65),
        (64, "60", 70),
        (3600, "3600", 3610),
        (10, "3", 10),
    ],
)
def test_the_grace_period_fits_the_drain(grace: int | None, drain: str | None, wanted: int | None) -> None:
    annotations = {"pgqrs.io/drain-seconds": drain} if drain else None
    spec = {} if grace is None else {"terminationGracePeriodSeconds": grace}
    injected = inject(pod(annotations=annotations, **spec), QUEUE, SETTINGS)
    assert injected["spec"].get("terminationGracePeriodSeconds") == wanted
    assert environment(sidecar_of(injected))["PGQRS_DRAIN_SECONDS"] == (drain or "25")
    assert pods.warnings(injected, SETTINGS) == []


def test_a_grace_period_that_may_not_be_raised_is_warned_of() -> None:
    settings = Injection(image="i", raise_grace_period=False)
    injected = inject(pod(terminationGracePeriodSeconds=10), QUEUE, settings)
    assert injected["spec"]["terminationGracePeriodSeconds"] == 10
    [warning] = pods.warnings(injected, settings)
    assert "terminationGracePeriodSeconds" in warning
    assert "35" in warning
    assert len(warning) <= 120  # the API server cuts longer ones


@pytest.mark.parametrize("value", ["", "0", "-1", "3601", "1.5", "25s", "ten", "٣", "9" * 5000])
def test_a_bad_drain_time_is_refused_with_name_value_and_limits(value: str) -> None:
    with pytest.raises(RefusedError) as caught:
        inject(pod(annotations={"pgqrs.io/drain-seconds": value}), QUEUE, SETTINGS)
    assert "pgqrs.io/drain-seconds" in str(caught.value)
    assert repr(value[:40]) in str(caught.value)
    assert "1 to 3600" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_hosts_network_is_refused() -> None:
    with pytest.raises(RefusedError, match="hostNetwork"):
        inject(pod(hostNetwork=True), QUEUE, SETTINGS)


def test_a_plain_container_with_the_sidecars_name_is_refused() -> None:
    with pytest.raises(RefusedError, match="pgqrs-sidecar"):
        inject(pod({"name": "pgqrs-sidecar"}), QUEUE, SETTINGS)


def test_the_token_is_kept_when_another_webhook_adds_a_container() -> None:
    once = inject(pod(), QUEUE, SETTINGS)
    once["spec"]["containers"].append({"name": "late"})
    twice = inject(once, QUEUE, SETTINGS)
    token = environment(sidecar_of(once))["PGQRS_SIDECAR_TOKEN"]
    assert environment(twice["spec"]["containers"][1])["PGQRS_SIDECAR_TOKEN"] == token
    assert twice["spec"]["containers"][0] == once["spec"]["containers"][0]


_names = st.sampled_from(["PGQRS_DSN", "PGQRS_SIDECAR_TOKEN", "PGQRS_HOSTNAME", "PGQRS_CONTAINER", "A", "B"])
_variables = st.lists(st.builds(lambda n, v: {"name": n, "value": v}, _names, st.text(max_size=3)), max_size=4)
_hook = {"exec": {"command": ["true"]}}
_containers = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b", "c", "d"])},
        optional={
            "env": _variables,
            "lifecycle": st.sampled_from([None, {}, {"preStop": _hook}, {"postStart": _hook}]),
        },
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda container: str(container["name"]),
)
_pods = st.builds(
    lambda containers, initial, grace, annotations: pod(
        *containers, annotations=annotations, initContainers=initial, terminationGracePeriodSeconds=grace
    ),
    _containers,
    st.sampled_from([None, [], [{"name": "x"}], [{"name": "x", "restartPolicy": "Always"}, {"name": "y"}]]),
    st.one_of(st.none(), st.integers(0, 100)),
    st.sampled_from([None, {}, {"k": "v"}, {"pgqrs.io/drain-seconds": "40"}]),
)


@given(_pods)
def test_twice_is_once_and_the_given_pod_is_not_changed(given_pod: dict[str, Any]) -> None:
    before = copy.deepcopy(given_pod)
    once = inject(given_pod, QUEUE, SETTINGS)
    assert given_pod == before
    assert inject(once, QUEUE, SETTINGS) == once
    written = {c["name"] for c in before["spec"]["containers"]}
    assert {c["name"] for c in once["spec"]["containers"]} == written
