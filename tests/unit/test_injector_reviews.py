"""What the injector makes of an AdmissionReview."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from pgqrs_injection.settings import Injection, QueueTarget
from pgqrs_operator.injector import queues, reviews
from pgqrs_operator.injector.errors import NotAReviewError, UnknownQueueError

SETTINGS = Injection(image="example.test/sidecar:1")


class Shelf:
    """A directory of queues in memory."""

    def __init__(self, *names: str) -> None:
        self._names = list(names)

    async def find(self, namespace: str, name: str) -> QueueTarget:
        if name not in self._names:
            raise UnknownQueueError(queues.unknown_queue(namespace, name, self._names))
        return QueueTarget(queue=name, secret="pgqrs", key="dsn")


def review(labels: dict[str, str] | None, *, operation: str = "CREATE", kind: str = "Pod", **spec: Any) -> bytes:
    pod: dict[str, Any] = {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}], **spec}}
    if labels is not None:
        pod["metadata"]["labels"] = labels
    request = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": kind},
        "operation": operation,
        "namespace": "shop",
        "object": pod,
    }
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(body).encode()


async def answer(body: bytes, *names: str, admit: bool = False) -> dict[str, Any]:
    verdict = await reviews.decide(reviews.parse(body), Shelf(*names), SETTINGS, admit_unknown_queue=admit)
    assert (verdict.body["apiVersion"], verdict.body["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = verdict.body["response"]
    assert response["uid"] == "u-1"
    assert isinstance(response, dict)
    return response


async def test_a_labelled_pod_is_patched() -> None:
    response = await answer(review({"pgqrs.io/queue": "emails"}, terminationGracePeriodSeconds=5), "emails")
    assert response["allowed"] is True
    assert response["patchType"] == "JSONPatch"
    operations = json.loads(base64.b64decode(response["patch"]))
    assert {operation["op"] for operation in operations} == {"add"}
    assert {operation["path"] for operation in operations} == {
        "/metadata/annotations",
        "/spec/containers",
        "/spec/initContainers",
        "/spec/terminationGracePeriodSeconds",
        "/spec/volumes",
    }
    [warning] = response["warnings"]
    assert "raised from 5 to 30" in warning


async def test_a_pod_that_fits_is_not_warned_about() -> None:
    assert "warnings" not in await answer(review({"pgqrs.io/queue": "emails"}), "emails")


async def test_an_injected_pod_needs_no_patch() -> None:
    first = reviews.parse(review({"pgqrs.io/queue": "emails"}))
    verdict = await reviews.decide(first, Shelf("emails"), SETTINGS)
    assert first.pod is not None
    for operation in json.loads(base64.b64decode(verdict.body["response"]["patch"])):
        _, part, field = operation["path"].split("/")
        first.pod[part][field] = operation["value"]
    again = await reviews.decide(first, Shelf("emails"), SETTINGS)
    assert again.body["response"] == {"uid": "u-1", "allowed": True}


@pytest.mark.parametrize("labels", [None, {}, {"app": "web"}])
async def test_a_pod_without_the_label_is_left_alone(labels: dict[str, str] | None) -> None:
    assert await answer(review(labels)) == {"uid": "u-1", "allowed": True}


@pytest.mark.parametrize("containers", [None, []])
async def test_a_pod_without_containers_is_left_to_the_api_server(containers: list[object] | None) -> None:
    response = await answer(review({"pgqrs.io/queue": "emails"}, containers=containers), "emails")
    assert response == {"uid": "u-1", "allowed": True}


@pytest.mark.parametrize(("operation", "kind"), [("UPDATE", "Pod"), ("CREATE", "Deployment")])
async def test_only_the_creation_of_pods_concerns_us(operation: str, kind: str) -> None:
    body = review({"pgqrs.io/queue": "emails"}, operation=operation, kind=kind)
    assert await answer(body) == {"uid": "u-1", "allowed": True}


@pytest.mark.parametrize(
    ("asked", "names", "said"),
    [
        ("email", ("emails", "reports"), "Did you mean emails?"),
        ("Emails", ("emails",), "Did you mean emails?"),
        ("qqqq", ("emails", "reports"), "There are emails, reports."),
        ("qqqq", ("emails",), "There is emails."),
        ("qqqq", ("b", "a", "f", "e", "d", "c"), "There are a, b, c, d, e, …."),
        ("qqqq", (), "create it first"),
        ("", ("emails",), "There is emails."),
    ],
)
async def test_an_unknown_queue_is_refused_and_near_names_are_named(
    asked: str, names: tuple[str, ...], said: str
) -> None:
    response = await answer(review({"pgqrs.io/queue": asked}), *names)
    assert response["allowed"] is False
    assert response["status"]["code"] == 403
    message = response["status"]["message"]
    assert repr(asked) in message
    assert "shop" in message
    assert said in message


@pytest.mark.parametrize("asked", ["email", "q" * 63])
async def test_an_unknown_queue_is_admitted_with_a_warning_where_a_setting_says_so(asked: str) -> None:
    response = await answer(review({"pgqrs.io/queue": asked}), "emails", admit=True)
    assert response["allowed"] is True
    assert "patch" not in response
    [warning] = response["warnings"]
    assert warning.startswith(f"pgqrs: started without a sidecar: There is no PgqrsQueue {asked!r}"[:120])
    assert len(warning) <= 120  # the API server cuts longer ones


async def test_admitting_unknown_queues_lets_no_wrong_pod_pass() -> None:
    response = await answer(review({"pgqrs.io/queue": "emails"}, hostNetwork=True), "emails", admit=True)
    assert response["allowed"] is False


async def test_a_pod_that_cannot_be_injected_is_refused() -> None:
    response = await answer(review({"pgqrs.io/queue": "emails"}, hostNetwork=True), "emails")
    assert response["allowed"] is False
    assert "hostNetwork" in response["status"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}',
        b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{}}',
        review({}).replace(b'"containers"', b'"things"'),
        review({}).replace(b'"uid"', b'"id"'),
        review({}).replace(b'"metadata"', b'"data"'),
        review({}).replace(b'"shop"', b'"../shop"'),
        review({}).replace(b'"shop"', b"7"),
        b'{"a":' * 100_000,
    ],
)
def test_anything_else_is_no_review(body: bytes) -> None:
    with pytest.raises(NotAReviewError):
        reviews.parse(body)


@pytest.mark.parametrize(
    "spec",
    [
        {"initContainers": [{}]},
        {"initContainers": [None]},
        {"volumes": [{}]},
        {"terminationGracePeriodSeconds": "30"},
        {"containers": [{"name": "app", "env": [{}]}]},
        {"containers": [{"name": "app", "ports": 5}]},
        {"nodeSelector": 5},
        {"affinity": 5},
        {"os": "linux"},
    ],
)
async def test_a_pod_that_no_api_server_would_send_is_no_review(spec: dict[str, Any]) -> None:
    with pytest.raises(NotAReviewError):
        await answer(review({"pgqrs.io/queue": "emails"}, **spec), "emails")


def test_a_queue_says_what_a_pod_must_know() -> None:
    assert queues.target({"metadata": {"name": "emails"}, "spec": {}}) == QueueTarget(
        queue="emails", secret="pgqrs", key="dsn", schema="public"
    )
    spec = {"queueName": "e", "connection": {"secretRef": {"name": "db", "key": "uri"}, "schema": "jobs"}}
    assert queues.target({"metadata": {"name": "emails"}, "spec": spec}) == QueueTarget(
        queue="e", secret="db", key="uri", schema="jobs"
    )
