"""The pure part of the injector: which pod comes out."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pgqrs_injection.pods import inject
from pgqrs_injection.settings import Injection, QueueTarget
from pgqrs_injection.sidecar import SidecarDefaults
from tests.support.injected import QUEUE, SETTINGS, TOKEN_PLACE, environment, pod, sidecar_of


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
    assert (found["PGQRS_CONNECTION_MODE"], found["PGQRS_LOG_LEVEL"]) == ("persistent", "INFO")
    assert "PGQRS_START_WITHOUT_DATABASE" not in found
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/started", "port": 9190, "scheme": "HTTP"}
    assert sidecar["startupProbe"]["failureThreshold"] * sidecar["startupProbe"]["periodSeconds"] == 120
    # It would drain a pod that goes on; see containers.py.
    assert "livenessProbe" not in sidecar
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


def test_every_hook_carries_the_token_and_an_apps_says_whose_it_is() -> None:
    injected = inject(pod({"name": "app"}, {"name": "helper"}), QUEUE, SETTINGS)
    sidecar = sidecar_of(injected)
    drain = f"/drain?token={environment(sidecar)['PGQRS_SIDECAR_TOKEN']}"
    found = [c["lifecycle"]["preStop"]["httpGet"] for c in [*injected["spec"]["containers"], sidecar]]
    assert [hook["path"] for hook in found] == [f"{drain}&container=app", f"{drain}&container=helper", drain]
    assert {(hook["port"], hook["scheme"]) for hook in found} == {(9190, "HTTP")}


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


def test_the_installation_says_how_sidecars_are() -> None:
    sidecar = SidecarDefaults(
        resources={"limits": {"cpu": "1"}},
        security_context={"runAsNonRoot": True},
        heartbeat_seconds=9,
        connection_mode="shortLived",
        start_without_database=True,
        log_level="ERROR",
    )
    made = sidecar_of(inject(pod(), QUEUE, Injection(image="i", sidecar=sidecar)))
    assert made["resources"] == {"limits": {"cpu": "1"}}
    assert made["securityContext"] == {"runAsNonRoot": True}
    found = environment(made)
    assert (found["PGQRS_HEARTBEAT_SECONDS"], found["PGQRS_CONNECTION_MODE"]) == ("9", "shortLived")
    assert (found["PGQRS_START_WITHOUT_DATABASE"], found["PGQRS_LOG_LEVEL"]) == ("true", "ERROR")


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
_token_mount = {"name": "kube-api-access-abcde", "mountPath": TOKEN_PLACE}
_containers = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b", "c", "d"])},
        optional={
            "env": _variables,
            "lifecycle": st.sampled_from([None, {}, {"preStop": _hook}, {"postStart": _hook}]),
            "volumeMounts": st.sampled_from([None, [], [_token_mount]]),
            "ports": st.sampled_from([None, [{"containerPort": 8080}]]),
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
    st.sampled_from(
        [
            None,
            [],
            [{"name": "x"}],
            [{"name": "x", "restartPolicy": "Always"}, {"name": "y"}],
            [{"name": "pgqrs-sidecar", "volumeMounts": [_token_mount]}, {"name": "y"}],
            [{"name": "pgqrs-sidecar", "env": [{"name": "PGQRS_DRAIN_SECONDS", "value": "50"}]}],
        ]
    ),
    st.one_of(st.none(), st.integers(0, 100)),
    st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {},
            optional={
                "k": st.just("v"),
                "pgqrs.io/drain-seconds": st.sampled_from(["1", "40"]),
                "pgqrs.io/http-port": st.sampled_from(["9190", "9290"]),
                "pgqrs.io/inject-dsn": st.sampled_from(["true", "false"]),
                "pgqrs.io/sidecar-memory-limit": st.sampled_from(["64Mi", "none"]),
            },
        ),
    ),
)


@given(given_pod=_pods, raises=st.booleans())
def test_twice_is_once_and_the_given_pod_is_not_changed(given_pod: dict[str, Any], *, raises: bool) -> None:
    before = copy.deepcopy(given_pod)
    settings = Injection(image="example.test/sidecar:1", raise_grace_period=raises)
    once = inject(given_pod, QUEUE, settings)
    assert given_pod == before
    assert inject(once, QUEUE, settings) == once
    written = {c["name"] for c in before["spec"]["containers"]}
    assert {c["name"] for c in once["spec"]["containers"]} == written
