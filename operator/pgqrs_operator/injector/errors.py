"""Why the injector does not do what it was asked to.

InjectorError
├── ConfigurationError   the environment is wrong: the process ends
├── NotAReviewError      the request is no AdmissionReview: answered with 400
├── LookupFailedError    the API server did not tell: answered with 500, the webhook's failurePolicy decides
└── RefusedError         the pod is wrong: it is refused, and its author reads the message
"""

from __future__ import annotations


class InjectorError(Exception):
    """The base of all errors of the injector."""


class ConfigurationError(InjectorError):
    """A setting is missing or not allowed; the message names it and says what is."""


class NotAReviewError(InjectorError):
    """The body of a request is not an `admission.k8s.io/v1` AdmissionReview of a pod."""


class LookupFailedError(InjectorError):
    """The queue could not be looked up, which says nothing about whether it exists."""


class RefusedError(InjectorError):
    """The pod cannot be injected as it is written; the message is meant for who wrote it."""
