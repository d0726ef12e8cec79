"""The CRDs on disk are those that the models give; nobody edits them by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgqrs_operator.resources import crds

ROOT = Path(__file__).parents[2]
#: For people who apply them, and for the chart.
FOLDERS = ("deploy/crds", "charts/pgqrs/files/crds")


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_are_what_the_models_give(folder: str) -> None:
    expected = {name: crds.render(definition) for name, definition in crds.definitions().items()}
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / folder).iterdir()}
    stale = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    assert not stale, f"{folder} is stale ({', '.join(stale)}); run `.venv/bin/pgqrs-operator crds {folder}`"
