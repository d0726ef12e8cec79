"""Pods before and after their injection, as files for people to read; `python -m tests.golden` makes the latter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgqrs_injection import pods
from pgqrs_injection.settings import QueueTarget
from pgqrs_sidecar import manifests
from tests.golden.making import PODS, ROOT, SETTINGS, TOKEN, made

if TYPE_CHECKING:
    from pathlib import Path

AFTER = sorted(path for path in made() if path.parent == PODS)


def test_every_pod_has_both_its_files() -> None:
    assert len(AFTER) >= 7
    assert sorted(PODS.glob("*.after.yaml")) == AFTER


@pytest.mark.parametrize("path", AFTER, ids=lambda path: path.name.partition(".")[0])
def test_pods_come_out_as_the_files_say(path: Path) -> None:
    where = path.relative_to(ROOT)
    assert path.read_text(encoding="utf-8") == made()[path], f"{where} is stale; run `.venv/bin/python -m tests.golden`"


@pytest.mark.parametrize("path", AFTER, ids=lambda path: path.name.partition(".")[0])
def test_what_came_out_stays_as_it_is(path: Path) -> None:
    [pod] = manifests.load(path.read_text(encoding="utf-8"))
    queue = QueueTarget(queue="another", secret="another", key="another")
    assert pods.inject(pod, queue, SETTINGS, token="another-token-than-the-first") == pod
    assert TOKEN in str(pod)
