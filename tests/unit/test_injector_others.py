"""What other webhooks do to a pod between the injector's two turns, or to a manifest after it was rendered, stays."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqrs_injection.pods import inject, warnings
from pgqrs_injection.settings import QueueTarget
from pgqrs_sidecar.render import render
from tests.support.injected import QUEUE, SETTINGS, environment, pod, sidecar_of

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[dict[str, Any]], None]


def _containers(changed: dict[str, Any]) -> list[dict[str, Any]]:
    return [*changed["spec"]["initContainers"], *changed["spec"]["containers"]]


def a_tracer_tells_all_containers_where_it_is(changed: dict[str, Any]) -> None:
    for container in _containers(changed):
        container["env"] = [{"name": "DD_AGENT_HOST", "value": "10.0.0.1"}, *container.get("env", [])]


def secrets_are_mounted_everywhere(changed: dict[str, Any]) -> None:
    changed["spec"].setdefault("volumes", []).append({"name": "vault", "emptyDir": {"medium": "Memory"}})
    for container in _containers(changed):
        container.setdefault("volumeMounts", []).append({"name": "vault", "mountPath": "/vault"})


def images_come_from_a_mirror(changed: dict[str, Any]) -> None:
    for container in _containers(changed):
        container["image"] = f"mirror.example/{container.get('image')}"
        container["imagePullPolicy"] = "Always"


def a_policy_limits_all_containers(changed: dict[str, Any]) -> None:
    for container in _containers(changed):
        container["resources"] = {"limits": {"cpu": "1", "memory": "80Mi"}}
        container["securityContext"] = {**container.get("securityContext", {}), "runAsUser": 1000650000}


def a_mesh_comes_first_and_answers_for_all(changed: dict[str, Any]) -> None:
    theirs = {"path": "/app-health/x/y", "port": 15020}
    for container in _containers(changed):
        if "startupProbe" in container:
            container["startupProbe"]["httpGet"] = theirs
        if "lifecycle" in container:
            container["lifecycle"]["preStop"] = {"httpGet": theirs}
    changed["spec"]["initContainers"].insert(0, {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"})


def a_step_comes_last(changed: dict[str, Any]) -> None:
    changed["spec"]["initContainers"].append({"name": "migrate", "image": "migrate:1"})


def the_api_server_fills_in_its_defaults(changed: dict[str, Any]) -> None:
    changed["spec"].setdefault("terminationGracePeriodSeconds", 30)
    for container in _containers(changed):
        container.setdefault("resources", {})
        container["terminationMessagePath"] = "/dev/termination-log"
        if "startupProbe" in container:
            container["startupProbe"]["successThreshold"] = 1


def somebody_labels_and_annotates_it(changed: dict[str, Any]) -> None:
    changed["metadata"]["labels"]["team"] = "mail"
    changed["metadata"]["annotations"]["example.com/status"] = "changed"


CHANGES: list[Change] = [
    a_tracer_tells_all_containers_where_it_is,
    secrets_are_mounted_everywhere,
    images_come_from_a_mirror,
    a_policy_limits_all_containers,
    a_mesh_comes_first_and_answers_for_all,
    a_step_comes_last,
    the_api_server_fills_in_its_defaults,
    somebody_labels_and_annotates_it,
]


def _stays(*changes: Change) -> None:
    given_pod = pod({"name": "app", "image": "app:1"}, {"name": "helper", "image": "helper:1"})
    injected = inject(given_pod, QUEUE, SETTINGS)
    changed = copy.deepcopy(injected)
    for change in changes:
        change(changed)
    again = inject(changed, QueueTarget(queue="another", secret="another", key="another"), SETTINGS)
    assert again == changed
    assert warnings(changed, SETTINGS) == []
    # What the sidecar is told is as it was, whatever came beside it.
    before, after = environment(sidecar_of(injected)), environment(sidecar_of(again))
    assert before.items() <= after.items()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_another_webhook_changes_after_us_stays(change: Change) -> None:
    _stays(change)


@given(changes=st.lists(st.sampled_from(CHANGES), max_size=4))
def test_what_several_change_after_us_stays(changes: list[Change]) -> None:
    _stays(*changes)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_manifest_that_others_changed_after_it_was_rendered_is_rendered_as_it_is(change: Change) -> None:
    document = {"kind": "Pod", **pod({"name": "app", "image": "app:1"})}
    [rendered], _ = render([document], SETTINGS)
    change(rendered)
    changed = copy.deepcopy(rendered)
    assert render([rendered], SETTINGS) == ([changed], [])


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_another_webhook_changed_before_us_stays(change: Change) -> None:
    changed = pod({"name": "app", "image": "app:1"}, annotations={}, initContainers=[{"name": "first", "image": "f:1"}])
    change(changed)
    before = copy.deepcopy(changed)
    injected = inject(changed, QUEUE, SETTINGS)
    initial = injected["spec"]["initContainers"]
    assert [container["name"] for container in initial][:-1] == [c["name"] for c in before["spec"]["initContainers"]]
    assert initial[:-1] == before["spec"]["initContainers"]
    [app], [was] = injected["spec"]["containers"], before["spec"]["containers"]
    assert {**app, **was, "env": app["env"]} == app
    assert [variable for variable in app["env"] if variable in was.get("env", [])] == was.get("env", [])
    assert injected["metadata"]["labels"] == before["metadata"]["labels"]
    assert before["metadata"]["annotations"].items() <= injected["metadata"]["annotations"].items()
