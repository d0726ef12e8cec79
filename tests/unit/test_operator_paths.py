"""Names from resources and rows never lead a request to anything but what they name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pgqrs_operator.api import BadNameError, path
from pgqrs_operator.resources.queue import QueueSpec
from pgqrs_operator.resources.worker import WorkerSpec

HOSTILE = ("../../victim/secrets/pgqrs", "..", ".", "", "a/b", "%2e%2e", "a%2fb")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_no_object_has_makes_no_path(name: str) -> None:
    with pytest.raises(BadNameError, match="no name of an object"):
        path("api", "v1", "namespaces", "shop", "secrets", name)


def test_a_name_is_one_segment_whatever_is_in_it() -> None:
    assert path("api", "v1", "namespaces", "shop", "secrets", "a?b#c") == "/api/v1/namespaces/shop/secrets/a%3Fb%23c"
    assert path("a b", "ä") == "/a%20b/%C3%A4"


@pytest.mark.parametrize("name", [*HOSTILE, "Upper", "a..b", "-a", "a\n", "a" * 254])
def test_the_schema_refuses_names_that_no_object_has(name: str) -> None:
    with pytest.raises(ValidationError, match="secretRef"):
        QueueSpec.model_validate({"connection": {"secretRef": {"name": name}}})
    with pytest.raises(ValidationError, match="queueRef"):
        WorkerSpec.model_validate({"queueRef": {"name": name}})


@pytest.mark.parametrize("key", ["", "a/b", "a b", "ä"])
def test_the_schema_refuses_keys_that_no_secret_has(key: str) -> None:
    with pytest.raises(ValidationError, match="key"):
        QueueSpec.model_validate({"connection": {"secretRef": {"key": key}}})
