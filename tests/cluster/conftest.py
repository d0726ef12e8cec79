"""One cluster with the chart installed for all tests of this folder; a namespace and a database for each test."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from tests.cluster.shop import Shop
from tests.support.cluster import choose
from tests.support.cluster.progress import Progress
from tests.support.installation import VALUES, Installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster.provider import Cluster

_NAME = "pgqrs-test"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of this session's own; PGQRS_TEST_KEEP leaves it up for a look and for the next session."""
    found = choose(_NAME)
    found.up()
    yield found
    if not os.environ.get("PGQRS_TEST_KEEP"):
        found.down()


@pytest.fixture(scope="session")
def installation(cluster: Cluster) -> Installation:
    """The chart in that cluster."""
    installed = Installation(cluster, Progress().say)
    installed.bring_images()
    installed.install(VALUES)
    return installed


@pytest.fixture
def shop(installation: Installation, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """A namespace with a database of its own; what happened in it is printed when the test fails."""
    made = Shop(installation, f"shop-{next(_numbers)}-{os.getpid()}")
    made.create()
    failed_before = request.session.testsfailed
    yield made
    if request.session.testsfailed > failed_before:
        print(made.diagnosis())
    made.remove()
