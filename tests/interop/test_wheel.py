"""Without upstream's wheel these tests fail with a sentence that says why; they never pass by skipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import upstream
from tests.support.postgres import free_port

if TYPE_CHECKING:
    from pathlib import Path


def test_a_wheel_that_cannot_be_installed_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQRS_TEST_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free_port()}/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(upstream.UpstreamMissingError, match=r"pgqrs==0\.15\.3 could not be installed"):
        upstream.python()


def test_the_environment_is_made_once() -> None:
    first = upstream.python()
    made = first.parent.parent.joinpath("complete").stat().st_mtime_ns
    assert upstream.python() == first
    assert first.parent.parent.joinpath("complete").stat().st_mtime_ns == made
