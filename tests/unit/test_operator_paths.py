"""Names from resources and rows never lead a request to anything but what they name."""

from __future__ import annotations

import pytest

from pgqrs_operator.api import BadNameError, path


@pytest.mark.parametrize("name", ["../../victim/secrets/pgqrs", "..", ".", "", "a/b", "%2e%2e", "a%2fb"])
def test_a_name_that_no_object_has_makes_no_path(name: str) -> None:
    with pytest.raises(BadNameError, match="no name of an object"):
        path("api", "v1", "namespaces", "shop", "secrets", name)


def test_a_name_is_one_segment_whatever_is_in_it() -> None:
    assert path("api", "v1", "namespaces", "shop", "secrets", "a?b#c") == "/api/v1/namespaces/shop/secrets/a%3Fb%23c"
