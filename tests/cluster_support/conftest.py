from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cluster_support.programs import FakePrograms

if TYPE_CHECKING:
    from pathlib import Path

# The cluster from parts exists on Linux and for root only; elsewhere, kind takes its place.
collect_ignore = [] if sys.platform.startswith("linux") and os.geteuid() == 0 else ["test_local_cluster.py"]


@pytest.fixture
def fake_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """Programs that only note their calls; nothing else is on PATH but what they themselves need."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(sys.executable)
    (folder / "env").symlink_to("/usr/bin/env")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PGQRS_TEST_CACHE", str(tmp_path / "cache"))
    return FakePrograms(folder)
