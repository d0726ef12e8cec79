"""One cluster with the chart installed for all tests of this folder; a namespace and a database for each test."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.cluster.delays import Delays
from tests.cluster.ledgered import LedgeredShop
from tests.cluster.shop import Shop
from tests.support.cluster import choose
from tests.support.cluster.progress import Progress
from tests.support.installation import ROOT, VALUES, Installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster.provider import Cluster

_NAME = "pgqrs-test"
#: A node can be drained, and its pods have somewhere to go.
_NODES = 2
_DELAYS = pytest.StashKey[Delays]()
_numbers = itertools.count(1)
AnyShop = TypeVar("AnyShop", bound=Shop)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of this session's own; PGQRS_TEST_KEEP leaves it up for a look and for the next session."""
    found = choose(_NAME)
    found.up(nodes=_NODES)
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
    yield from _open(Shop(installation, _name()), request)


@pytest.fixture(scope="module")
def ledgered(installation: Installation, request: pytest.FixtureRequest) -> Iterator[LedgeredShop]:
    """A namespace and a database for all tests of a module, whose handlers keep a ledger."""
    yield from _open(LedgeredShop(installation, _name()), request)


def _name() -> str:
    return f"shop-{next(_numbers)}-{os.getpid()}"


def _open(made: AnyShop, request: pytest.FixtureRequest) -> Iterator[AnyShop]:
    made.create()
    failed_before = request.session.testsfailed
    yield made
    if request.session.testsfailed > failed_before:
        print(made.diagnosis())
    made.remove()


@pytest.fixture(scope="session")
def delays(pytestconfig: pytest.Config) -> Delays:
    """Where tests put how long messages of dead processes waited; shown at the end of the session."""
    return pytestconfig.stash.setdefault(_DELAYS, Delays())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the delays, and keep them."""
    found = config.stash.get(_DELAYS, None)
    if found is not None:
        for line in found.table():
            terminalreporter.write_line(line)
        found.write(ROOT / "build" / "cluster" / "delays.json")
