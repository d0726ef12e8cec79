"""What both kinds share: the base of their models, conditions. Models describe what is stored, without I/O."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from pgqrs import duration

#: The longest name that Kubernetes gives an object, and what it looks like: a subdomain of RFC 1123.
OBJECT_NAME_LENGTH = 253
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_OBJECT_NAME = rf"^{_LABEL}(\.{_LABEL})*$"


class Model(BaseModel):
    """A part of a resource: snake_case here, camelCase in the cluster; unknown fields belong to newer versions."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


#: A duration in the grammar of Go; its range is a matter of the field and is checked with a message of its own.
Duration = Annotated[str, Field(pattern=duration.PATTERN, max_length=32)]
#: Anything else could lead a request for the object to another one.
ObjectName = Annotated[str, Field(min_length=1, max_length=OBJECT_NAME_LENGTH, pattern=_OBJECT_NAME)]
SecretDataKey = Annotated[str, Field(min_length=1, max_length=OBJECT_NAME_LENGTH, pattern=r"^[-._a-zA-Z0-9]+$")]


def is_object_name(text: str | None) -> bool:
    """Tell whether an object of Kubernetes can have this name."""
    return text is not None and len(text) <= OBJECT_NAME_LENGTH and bool(re.fullmatch(_OBJECT_NAME, text, re.ASCII))


Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Condition(Model):
    """One aspect of the state of a resource, as all of Kubernetes writes it."""

    type: Literal["Ready", "Reconciling", "Stalled"] = Field(description="Which aspect of the resource this is.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(max_length=128, description="Why, in one CamelCase word.")
    message: str = Field(max_length=4096, description="Why, for people, and what to do.")
    last_transition_time: Moment = Field(description="Since when the status is what it is.")
    observed_generation: int = Field(ge=0, description="The generation of the resource that this speaks of.")


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=8,
        description=(
            "Ready: what is declared is true. Reconciling: work goes on by itself. Stalled: somebody has to act."
        ),
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
