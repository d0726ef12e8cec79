"""Reads and writes AdmissionReviews (`admission.k8s.io/v1`) of pods.

The answer's patch replaces whole fields: it is applied to the very object that came with the request.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgqrs_injection import pods
from pgqrs_injection.errors import RefusedError
from pgqrs_operator.injector.errors import NotAReviewError, UnknownQueueError
from pgqrs_operator.names import QUEUE_LABEL

if TYPE_CHECKING:
    from pgqrs_injection.settings import Injection, QueueTarget
    from pgqrs_operator.injector.queues import QueueDirectory

_API_VERSION = "admission.k8s.io/v1"
_FORBIDDEN = 403
#: The API server cuts longer warnings.
_LONGEST_WARNING = 120
#: No API server sends another; it becomes part of an address.
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
#: What can come of a request that is answered; "admitted": let in as it is, because its queue does not exist.
RESULTS = ("injected", "ignored", "refused", "admitted")


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

    #: One of `RESULTS`.
    result: str
    #: The body of the answer.
    body: dict[str, Any]
    #: Why a pod was not injected, in words for its author.
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
            _ = _label(pod), [container["name"] for container in pod["spec"]["containers"] or []]
            if not _NAMESPACE.fullmatch(namespace):
                raise ValueError(_NAMESPACE.pattern)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = "The body is no AdmissionReview."
        raise NotAReviewError(message) from error
    return Request(uid=str(uid), namespace=str(namespace), pod=pod if about_pod else None)


async def decide(
    request: Request, queues: QueueDirectory, settings: Injection, *, admit_unknown_queue: bool = False
) -> Verdict:
    """Decide about one request.

    Args:
        request: What is asked.
        queues: Where the queues are looked up.
        settings: What holds for all pods.
        admit_unknown_queue: Whether a pod whose queue does not exist is let in as it is.

    Raises:
        LookupFailedError: the queue cannot be looked up at the moment.
        NotAReviewError: the pod is not built as an API server builds them.
    """
    pod = request.pod
    name = _label(pod) if pod else None
    # A pod without containers comes here before the API server refuses it, in words of its own.
    if pod is None or name is None or not pod["spec"]["containers"]:
        return Verdict(result="ignored", body=_answer(request, {"allowed": True}))
    try:
        queue = await queues.find(request.namespace, name)
        injected, notes = _injected(pod, queue, settings)
    except RefusedError as error:
        if admit_unknown_queue and isinstance(error, UnknownQueueError):
            note = f"pgqrs: started without a sidecar: {error}"[:_LONGEST_WARNING]
            body = _answer(request, {"allowed": True, "warnings": [note]})
            return Verdict(result="admitted", body=body, reason=str(error))
        status = {"code": _FORBIDDEN, "reason": "Forbidden", "message": str(error)}
        body = _answer(request, {"allowed": False, "status": status})
        return Verdict(result="refused", body=body, reason=str(error))
    response: dict[str, Any] = {"allowed": True}
    operations = patch(pod, injected)
    if operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(operations).encode()).decode()
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


def _label(pod: dict[str, Any]) -> str | None:
    name = (pod["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    return None if name is None else str(name)


def _injected(pod: dict[str, Any], queue: QueueTarget, settings: Injection) -> tuple[dict[str, Any], list[str]]:
    """The pod after its injection, and the warnings for its author."""
    try:
        return pods.inject(pod, queue, settings), pods.warnings(pod, settings)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        message = "The pod in the AdmissionReview is not built as the API server builds them."
        raise NotAReviewError(message) from error


def _answer(request: Request, response: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": _API_VERSION,
        "kind": "AdmissionReview",
        "response": {"uid": request.uid, **response},
    }
