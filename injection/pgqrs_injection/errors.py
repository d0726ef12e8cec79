"""Why a pod or a setting is not accepted.

InjectionError
├── ConfigurationError   a setting of the installation is wrong; the message names it and says what is allowed
└── RefusedError         the pod is wrong; its author reads the message
"""

from __future__ import annotations


class InjectionError(Exception):
    """The base of all errors of the injection."""


class ConfigurationError(InjectionError):
    """A setting is missing or not allowed; the message names it and says what is."""


class RefusedError(InjectionError):
    """The pod cannot be injected as it is written; the message is meant for who wrote it."""
