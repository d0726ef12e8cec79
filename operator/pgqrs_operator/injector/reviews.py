"""Reads and writes AdmissionReviews (`admission.k8s.io/v1`) of pods.

The answer's patch replaces whole fields: it is applied to the very object that came with the request.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgqrs_operator.injector import pods
from pgqrs_operator.injector.errors import NotAReviewError, RefusedError
from pgqrs_operator.names import QUEUE_LABEL

if TYPE_CHECKING:
    from pgqrs_operator.injector.queues import QueueDirectory
    from pgqrs_operator.injector.settings import Injection

_API_VERSION = "admission.k8s.io/v1"
_FORBIDDEN = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the API server asks."""

    uid: str
    namespace: str
    #: None if it is not about the creation of a pod.
    pod: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the injector decided."""

    #: "injected", "ignored" or "refused".
    result: str
    #: The body of the answer.
    body: dict[str, Any]
    #: Why a pod was refused, in words for its author.
    reason: str = ""


def parse(body: bytes) -> Request:
    """Read the body of a request.

    Raises:
        NotAReviewError: it is something else.
    """
    try:
        review = json.loads(body)
        if review["apiVersion"] != _API_VERSION or review["kind"] != "AdmissionReview":
            message = f"The body is no AdmissionReview of {_API_VERSION}."
            raise NotAReviewError(message)
        request = review["request"]
        uid, namespace, pod = request["uid"], request.get("namespace") or "", request.get("object")
        about_pod = request["kind"]["kind"] == "Pod" and request["operation"] == "CREATE"
        if about_pod:
            _ = pod["metadata"], [container["name"] for container in pod["spec"]["containers"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = "The body is no AdmissionReview."
        raise NotAReviewError(message) from error
    return Request(uid=str(uid), namespace=str(namespace), pod=pod if about_pod else None)


async def decide(request: Request, queues: QueueDirectory, settings: Injection) -> Verdict:
    """Decide about one request.

    Raises:
        LookupFailedError: the queue cannot be looked up at the moment.
    """
    pod = request.pod
    name = (pod["metadata"].get("labels") or {}).get(QUEUE_LABEL) if pod else None
    if pod is None or name is None:
        return Verdict(result="ignored", body=_answer(request, {"allowed": True}))
    try:
        queue = await queues.find(request.namespace, name)
        injected = pods.inject(pod, queue, settings)
    except RefusedError as error:
        status = {"code": _FORBIDDEN, "reason": "Forbidden", "message": str(error)}
        body = _answer(request, {"allowed": False, "status": status})
        return Verdict(result="refused", body=body, reason=str(error))
    response: dict[str, Any] = {"allowed": True}
    operations = patch(pod, injected)
    if operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(operations).encode()).decode()
    notes = pods.warnings(injected, settings)
    if notes:
        response["warnings"] = notes
    return Verdict(result="injected", body=_answer(request, response))


def patch(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON patch (RFC 6902) from one pod to the other, a field of metadata or spec at a time."""
    return [
        # "add" also replaces a member that exists.
        {"op": "add", "path": f"/{part}/{field}", "value": value}
        for part in ("metadata", "spec")
        for field, value in after[part].items()
        if before[part].get(field) != value
    ]


def _answer(request: Request, response: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": _API_VERSION,
        "kind": "AdmissionReview",
        "response": {"uid": request.uid, **response},
    }
