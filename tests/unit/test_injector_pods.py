"""The pure part of the injector: which pod comes out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqrs_injection import pods
from pgqrs_injection.errors import RefusedError
from pgqrs_injection.pods import inject
from pgqrs_injection.settings import Injection, QueueTarget
from pgqrs_injection.sidecar import SidecarDefaults

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
    assert (found["PGQRS_CONNECTION_MODE"], found["PGQRS_LOG_LEVEL"]) == ("persistent", "INFO")
    assert "PGQRS_START_WITHOUT_DATABASE" not in found
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


def test_a_sidecar_that_the_author_began_is_completed() -> None:
    begun = {"name": "pgqrs-sidecar", "resources": {"limits": {"memory": "200Mi"}}}
    injected = inject(pod(initContainers=[begun, {"name": "other"}]), QUEUE, SETTINGS)
    assert [c["name"] for c in injected["spec"]["initContainers"]] == ["pgqrs-sidecar", "other"]
    sidecar = sidecar_of(injected)
    assert sidecar["resources"] == {"limits": {"memory": "200Mi"}}
    assert sidecar["restartPolicy"] == "Always"
    assert "PGQRS_DSN" in environment(sidecar)


def test_what_the_api_server_fills_in_is_not_the_authors() -> None:
    begun = {"name": "pgqrs-sidecar", "imagePullPolicy": "Always", "resources": {}}
    sidecar = sidecar_of(inject(pod(initContainers=[begun]), QUEUE, SETTINGS))
    assert sidecar["imagePullPolicy"] == "IfNotPresent"
    assert sidecar["resources"]["limits"] == {"memory": "96Mi"}
    own = {**begun, "image": "mine:1"}
    assert sidecar_of(inject(pod(initContainers=[own]), QUEUE, SETTINGS))["imagePullPolicy"] == "Always"


@pytest.mark.parametrize(
    ("grace", "annotation", "drain", "wanted"),
    [
        (None, None, 25, None),  # 30 s are what Kubernetes gives, and 25 + 5 fit in
        (30, None, 25, 30),
        (29, None, 25, 30),
        (5, None, 25, 30),
        (0, None, 25, 30),
        (31, None, 26, 31),
        (120, None, 115, 120),
        (120, "60", 60, 120),
        (None, "60", 60, 65),
        (65, "60", 60, 65),
        (64, "60", 60, 65),
        (7200, "3600", 3600, 7200),
        (10, "3", 3, 10),
        (100_000, None, 86400, 100_000),  # no longer than the sidecar takes
    ],
)
def test_drain_and_grace_period_fit_each_other(
    grace: int | None, annotation: str | None, drain: int, wanted: int | None
) -> None:
    annotations = {"pgqrs.io/drain-seconds": annotation} if annotation else None
    spec = {} if grace is None else {"terminationGracePeriodSeconds": grace}
    given = pod(annotations=annotations, **spec)
    injected = inject(given, QUEUE, SETTINGS)
    assert injected["spec"].get("terminationGracePeriodSeconds") == wanted
    assert environment(sidecar_of(injected))["PGQRS_DRAIN_SECONDS"] == str(drain)
    notes = pods.warnings(given, SETTINGS)
    if wanted == grace:
        assert notes == []
    else:
        [note] = notes
        assert f"raised from {30 if grace is None else grace} to {wanted}" in note
        assert len(note) <= 120  # the API server cuts longer ones
    assert pods.warnings(injected, SETTINGS) == []


def test_a_grace_period_that_may_not_be_raised_is_warned_of() -> None:
    settings = Injection(image="i", raise_grace_period=False)
    injected = inject(pod(terminationGracePeriodSeconds=10), QUEUE, settings)
    assert injected["spec"]["terminationGracePeriodSeconds"] == 10
    [warning] = pods.warnings(injected, settings)
    assert "terminationGracePeriodSeconds" in warning
    assert "30 or more" in warning
    assert len(warning) <= 120


def test_a_drain_that_the_sidecar_has_already_decides_the_grace_period() -> None:
    once = inject(pod(terminationGracePeriodSeconds=60), QUEUE, SETTINGS)
    # Another webhook shortens it, after the sidecar was told to drain for up to 55 s.
    once["spec"]["terminationGracePeriodSeconds"] = 30
    assert inject(once, QUEUE, SETTINGS)["spec"]["terminationGracePeriodSeconds"] == 60
    [warning] = pods.warnings(once, SETTINGS)
    assert "raised from 30 to 60" in warning


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
    ],
)
def test_a_pod_for_windows_is_refused(spec: dict[str, Any], place: str) -> None:
    with pytest.raises(RefusedError) as caught:
        inject(pod(**spec), QUEUE, SETTINGS)
    assert place in str(caught.value)
    assert "pgqrs.io/queue" in str(caught.value)


def test_a_pod_for_linux_is_not_refused() -> None:
    assert inject(pod(os={"name": "linux"}, nodeSelector={"kubernetes.io/os": "linux"}), QUEUE, SETTINGS)


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


def test_no_kubernetes_token_is_mounted_into_the_sidecar() -> None:
    place = "/var/run/secrets/kubernetes.io/serviceaccount"
    theirs = {"name": "kube-api-access-abcde", "mountPath": place, "readOnly": True}
    begun = {"name": "pgqrs-sidecar", "volumeMounts": [theirs, {"name": "own", "mountPath": "/own"}]}
    for initial in ([], [begun]):
        given = pod({"name": "app", "volumeMounts": [theirs]}, initContainers=initial, volumes=[{"name": "own"}])
        injected = inject(given, QUEUE, SETTINGS)
        # The admission that would mount one looks for a mount at exactly this place.
        at = [mount for mount in sidecar_of(injected)["volumeMounts"] if mount["mountPath"] == place]
        assert at == [{"name": "pgqrs-no-token", "mountPath": place, "readOnly": True}]
        assert injected["spec"]["volumes"] == [{"name": "own"}, {"name": "pgqrs-no-token", "emptyDir": {}}]
        # The app's own is none of our business.
        assert injected["spec"]["containers"][0]["volumeMounts"] == [theirs]


def test_what_the_author_mounts_at_the_place_of_the_token_stays() -> None:
    mount = {"name": "mine", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    begun = {"name": "pgqrs-sidecar", "volumeMounts": [mount]}
    injected = inject(pod(initContainers=[begun]), QUEUE, SETTINGS)
    assert sidecar_of(injected)["volumeMounts"] == [mount]
    assert "volumes" not in injected["spec"]


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
_token_mount = {"name": "kube-api-access-abcde", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
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
