"""Drain time and grace period fit each other, and a pod's author is told of what was changed for it."""

from __future__ import annotations

import pytest

from pgqrs_injection import pods
from pgqrs_injection.pods import inject
from pgqrs_injection.settings import Injection
from tests.support.injected import QUEUE, SETTINGS, environment, pod, sidecar_of


@pytest.mark.parametrize(
    ("grace", "annotation", "drain", "wanted"),
    [
        (None, None, 25, None),  # 30 s are what Kubernetes gives, and 25 + 5 fit in
        (30, None, 25, 30),
        (29, None, 25, 30),
        (5, None, 25, 30),
        (0, None, 25, 30),
        (31, None, 26, 31),
        (120, None, 115, 120),
        (120, "60", 60, 120),
        (None, "60", 60, 65),
        (65, "60", 60, 65),
        (64, "60", 60, 65),
        (7200, "3600", 3600, 7200),
        (10, "3", 3, 10),
        (100_000, None, 86400, 100_000),  # no longer than the sidecar takes
    ],
)
def test_drain_and_grace_period_fit_each_other(
    grace: int | None, annotation: str | None, drain: int, wanted: int | None
) -> None:
    annotations = {"pgqrs.io/drain-seconds": annotation} if annotation else None
    spec = {} if grace is None else {"terminationGracePeriodSeconds": grace}
    given = pod(annotations=annotations, **spec)
    injected = inject(given, QUEUE, SETTINGS)
    assert injected["spec"].get("terminationGracePeriodSeconds") == wanted
    assert environment(sidecar_of(injected))["PGQRS_DRAIN_SECONDS"] == str(drain)
    notes = pods.warnings(given, SETTINGS)
    if wanted == grace:
        assert notes == []
    else:
        [note] = notes
        assert f"raised from {30 if grace is None else grace} to {wanted}" in note
        assert len(note) <= 120  # the API server cuts longer ones
    assert pods.warnings(injected, SETTINGS) == []


@pytest.mark.parametrize(
    ("grace", "annotation", "drain", "said"),
    [
        (30, None, 25, None),
        (None, None, 25, None),
        (29, None, 24, "should be 30 or more for a drain of 25 s, which is cut to 24"),
        (10, None, 5, "should be 30 or more for a drain of 25 s, which is cut to 5"),
        (3, None, 1, "should be 30 or more for a drain of 25 s, which is cut to 1"),
        (0, None, 1, "should be 30 or more for a drain of 25 s, which is cut to 1"),
        (30, "60", 25, "should be 65 or more for a drain of 60 s, which is cut to 25"),
        (65, "60", 60, None),
        (2, "1", 1, "should be 6 or more for a drain of 1 s"),
    ],
)
def test_a_drain_is_cut_where_the_grace_period_may_not_be_raised(
    grace: int | None, annotation: str | None, drain: int, said: str | None
) -> None:
    settings = Injection(image="i", raise_grace_period=False)
    annotations = {"pgqrs.io/drain-seconds": annotation} if annotation else None
    spec = {} if grace is None else {"terminationGracePeriodSeconds": grace}
    given = pod(annotations=annotations, **spec)
    injected = inject(given, QUEUE, settings)
    assert injected["spec"].get("terminationGracePeriodSeconds") == grace
    assert environment(sidecar_of(injected))["PGQRS_DRAIN_SECONDS"] == str(drain)
    wanted = [] if said is None else [f"pgqrs: terminationGracePeriodSeconds {said}"]
    assert pods.warnings(given, settings) == wanted
    assert all(len(note) <= 120 for note in wanted)  # the API server cuts longer ones


def test_a_drain_that_the_sidecar_has_already_decides_the_grace_period() -> None:
    once = inject(pod(terminationGracePeriodSeconds=60), QUEUE, SETTINGS)
    # Another webhook shortens it, after the sidecar was told to drain for up to 55 s.
    once["spec"]["terminationGracePeriodSeconds"] = 30
    assert inject(once, QUEUE, SETTINGS)["spec"]["terminationGracePeriodSeconds"] == 60
    [warning] = pods.warnings(once, SETTINGS)
    assert "raised from 30 to 60" in warning


def test_a_drain_that_the_sidecar_has_already_is_not_cut() -> None:
    settings = Injection(image="i", raise_grace_period=False)
    begun = {"name": "pgqrs-sidecar", "env": [{"name": "PGQRS_DRAIN_SECONDS", "value": "50"}]}
    given = pod(initContainers=[begun], terminationGracePeriodSeconds=30)
    assert environment(sidecar_of(inject(given, QUEUE, settings)))["PGQRS_DRAIN_SECONDS"] == "50"
    said = "pgqrs: terminationGracePeriodSeconds should be 55 or more for a drain of 50 s"
    assert pods.warnings(given, settings) == [said]
