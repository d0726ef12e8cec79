"""A sidecar that the pod has already: begun by its author, injected before, or changed by others since."""

from __future__ import annotations

from typing import Any

import pytest

from pgqrs_injection.errors import RefusedError
from pgqrs_injection.pods import inject
from tests.support.injected import QUEUE, SETTINGS, TOKEN_PLACE, environment, pod, sidecar_of


def sidecar_with(**variables: str) -> dict[str, Any]:
    """A sidecar with some environment."""
    return {"name": "pgqrs-sidecar", "env": [{"name": name, "value": value} for name, value in variables.items()]}


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


def test_no_kubernetes_token_is_mounted_into_the_sidecar() -> None:
    theirs = {"name": "kube-api-access-abcde", "mountPath": TOKEN_PLACE, "readOnly": True}
    begun = {"name": "pgqrs-sidecar", "volumeMounts": [theirs, {"name": "own", "mountPath": "/own"}]}
    for initial in ([], [begun]):
        given = pod({"name": "app", "volumeMounts": [theirs]}, initContainers=initial, volumes=[{"name": "own"}])
        injected = inject(given, QUEUE, SETTINGS)
        # The admission that would mount one looks for a mount at exactly this place.
        at = [mount for mount in sidecar_of(injected)["volumeMounts"] if mount["mountPath"] == TOKEN_PLACE]
        assert at == [{"name": "pgqrs-no-token", "mountPath": TOKEN_PLACE, "readOnly": True}]
        assert injected["spec"]["volumes"] == [{"name": "own"}, {"name": "pgqrs-no-token", "emptyDir": {}}]
        # The app's own is none of our business.
        assert injected["spec"]["containers"][0]["volumeMounts"] == [theirs]


def test_what_the_author_mounts_at_the_place_of_the_token_stays() -> None:
    mount = {"name": "mine", "mountPath": TOKEN_PLACE}
    begun = {"name": "pgqrs-sidecar", "volumeMounts": [mount]}
    injected = inject(pod(initContainers=[begun]), QUEUE, SETTINGS)
    assert sidecar_of(injected)["volumeMounts"] == [mount]
    assert "volumes" not in injected["spec"]


def test_what_its_environment_says_wins_over_annotations_and_all_else_fits_it() -> None:
    written = sidecar_with(PGQRS_SIDECAR_HTTP_PORT="9300", PGQRS_SIDECAR_SESSION_PORT="9301", PGQRS_DRAIN_SECONDS="50")
    said = {"http-port": "9400", "session-port": "9401", "drain-seconds": "10"}
    annotations = {f"pgqrs.io/{name}": value for name, value in said.items()}
    injected = inject(pod(annotations=annotations, initContainers=[written]), QUEUE, SETTINGS)
    sidecar, [app] = sidecar_of(injected), injected["spec"]["containers"]
    assert environment(sidecar).items() >= environment(written).items()
    assert sidecar["startupProbe"]["httpGet"]["port"] == 9300
    for container in (sidecar, app):
        assert container["lifecycle"]["preStop"]["httpGet"]["port"] == 9300
        assert environment(container)["PGQRS_SIDECAR"] == "127.0.0.1:9301"
    assert injected["spec"]["terminationGracePeriodSeconds"] == 55


def test_a_port_in_its_environment_is_not_free_for_others() -> None:
    app = {"name": "app", "ports": [{"containerPort": 9300}]}
    with pytest.raises(RefusedError, match="container app has the port 9300"):
        inject(pod(app, initContainers=[sidecar_with(PGQRS_SIDECAR_HTTP_PORT="9300")]), QUEUE, SETTINGS)


def test_the_last_of_two_variables_counts_as_it_does_in_the_container() -> None:
    written = sidecar_with(PGQRS_SIDECAR_HTTP_PORT="9300")
    written["env"].append({"name": "PGQRS_SIDECAR_HTTP_PORT", "value": "9500"})
    sidecar = sidecar_of(inject(pod(initContainers=[written]), QUEUE, SETTINGS))
    assert sidecar["startupProbe"]["httpGet"]["port"] == 9500


@pytest.mark.parametrize("name", ["PGQRS_SIDECAR_HTTP_PORT", "PGQRS_SIDECAR_SESSION_PORT", "PGQRS_DRAIN_SECONDS"])
@pytest.mark.parametrize("said", [{"value": "80.5"}, {"value": ""}, {}, {"valueFrom": {"configMapKeyRef": {}}}])
def test_a_variable_that_the_others_cannot_be_told_is_refused(name: str, said: dict[str, Any]) -> None:
    written = {"name": "pgqrs-sidecar", "env": [{"name": name, **said}]}
    with pytest.raises(RefusedError, match=f"{name} of the container pgqrs-sidecar is .*; allowed is a whole number"):
        inject(pod(initContainers=[written]), QUEUE, SETTINGS)


def test_its_own_token_is_everybodys() -> None:
    token = "a-token-of-the-author"
    injected = inject(
        pod(initContainers=[sidecar_with(PGQRS_SIDECAR_TOKEN=token)]), QUEUE, SETTINGS, token="another" * 3
    )
    for container in (sidecar_of(injected), *injected["spec"]["containers"]):
        assert environment(container)["PGQRS_SIDECAR_TOKEN"] == token
        assert f"token={token}" in container["lifecycle"]["preStop"]["httpGet"]["path"]


@pytest.mark.parametrize(
    "said", [{"value": "short"}, {"value": "a&b=c" * 5}, {"value": ""}, {"valueFrom": {"secretKeyRef": {}}}]
)
def test_a_token_that_no_hook_can_carry_is_refused_and_not_repeated(said: dict[str, Any]) -> None:
    written = {"name": "pgqrs-sidecar", "env": [{"name": "PGQRS_SIDECAR_TOKEN", **said}]}
    with pytest.raises(
        RefusedError, match=r"PGQRS_SIDECAR_TOKEN of the container .* a plain value of 16 to 128"
    ) as caught:
        inject(pod(initContainers=[written]), QUEUE, SETTINGS)
    assert not said.get("value") or said["value"] not in str(caught.value)


def test_what_a_mesh_makes_of_it_afterwards_stays() -> None:
    once = inject(pod(), QUEUE, SETTINGS)
    # Meshes put their own address in the place of probes and hooks, and are asked before us the second time.
    theirs = {"path": "/app-health/pgqrs-sidecar/startupz", "port": 15020}
    for container in (sidecar_of(once), *once["spec"]["containers"]):
        container["lifecycle"]["preStop"]["httpGet"] = theirs
    sidecar_of(once)["startupProbe"]["httpGet"] = theirs
    assert inject(once, QUEUE, SETTINGS) == once


def test_where_it_does_not_start_its_pod_says_why() -> None:
    assert sidecar_of(inject(pod(), QUEUE, SETTINGS))["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_hook_of_another_kind_does_not_cost_it_its_own() -> None:
    start, stop = {"exec": {"command": ["true"]}}, {"exec": {"command": ["sleep", "1"]}}
    begun = {"name": "pgqrs-sidecar", "lifecycle": {"postStart": start}}
    made = sidecar_of(inject(pod(initContainers=[begun]), QUEUE, SETTINGS))["lifecycle"]
    assert made["postStart"] == start
    assert made["preStop"]["httpGet"]["path"].startswith("/drain?token=")
    begun = {"name": "pgqrs-sidecar", "lifecycle": {"preStop": stop}}
    assert sidecar_of(inject(pod(initContainers=[begun]), QUEUE, SETTINGS))["lifecycle"] == {"preStop": stop}


def test_a_word_about_its_rights_gives_it_no_others() -> None:
    begun = {"name": "pgqrs-sidecar", "securityContext": {"runAsUser": 1000}}
    made = sidecar_of(inject(pod(initContainers=[begun]), QUEUE, SETTINGS))["securityContext"]
    assert made == {**SETTINGS.sidecar.security_context, "runAsUser": 1000}
    assert made["readOnlyRootFilesystem"]
    assert SETTINGS.sidecar.security_context["runAsUser"] != 1000
