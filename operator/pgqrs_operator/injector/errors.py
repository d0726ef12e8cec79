"""Why the injector does not do what it was asked to; the other errors are those of `pgqrs_injection.errors`.

InjectionError
├── ConfigurationError     the environment is wrong: the process ends
├── RefusedError           the pod is wrong: it is refused, and its author reads the message
│   └── UnknownQueueError  the label names no queue: refused or, by a setting, admitted as it is
├── NotAReviewError        the request is no AdmissionReview: answered with 400
└── LookupFailedError      the API server did not tell: answered with 500, the webhook's failurePolicy decides
"""

from __future__ import annotations

from pgqrs_injection.errors import InjectionError, RefusedError


class UnknownQueueError(RefusedError):
    """There is no `PgqrsQueue` of the name that the label gives; the message says which there are."""


class NotAReviewError(InjectionError):
    """The body of a request is not an `admission.k8s.io/v1` AdmissionReview of a pod."""


class LookupFailedError(InjectionError):
    """The queue could not be looked up, which says nothing about whether it exists."""
