"""One cluster with the chart installed for all tests of this folder; a namespace and a database for each test."""

from __future__ import annotations

import itertools
import os
import re
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.cluster.delays import Delays
from tests.cluster.direct import Direct
from tests.cluster.ledgered import LedgeredShop
from tests.cluster.nodes import Nodes
from tests.cluster.operators import Operators
from tests.cluster.shop import Shop
from tests.support.cluster import choose
from tests.support.cluster.progress import Progress
from tests.support.installation import ROOT, VALUES, Installation

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tests.support.cluster.provider import Cluster

_NAME = "pgqrs-test"
#: A node can be drained, and its pods have somewhere to go.
_NODES = 2
#: What the tests leave for people.
_FOLDER = ROOT / "build" / "cluster"
_UNFIT = re.compile(r"[^\w.-]+")
_DELAYS = pytest.StashKey[Delays]()
#: What can tell of a failure: the installation, and the shops that are open.
_WITNESSES = pytest.StashKey[list[Installation | Shop]]()
#: The errors that were told of: that of a fixture comes again with each of its tests.
_TOLD = pytest.StashKey[set[BaseException]]()
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
def installation(cluster: Cluster, pytestconfig: pytest.Config) -> Installation:
    """The chart in that cluster."""
    installed = Installation(cluster, Progress().say)
    pytestconfig.stash.setdefault(_WITNESSES, []).append(installed)
    installed.bring_images()
    installed.install(VALUES)
    return installed


@pytest.fixture
def shop(installation: Installation, pytestconfig: pytest.Config) -> Iterator[Shop]:
    """A namespace with a database of its own."""
    yield from _open(Shop(installation, _name()), pytestconfig)


@pytest.fixture
def api(shop: Shop) -> Iterator[Direct]:
    """The way to the shop's resources."""
    with shop.installation.cluster.proxy() as port:
        yield Direct(port, shop.namespace)


@pytest.fixture(scope="module")
def ledgered(installation: Installation, pytestconfig: pytest.Config) -> Iterator[LedgeredShop]:
    """A namespace and a database for all tests of a module, whose handlers keep a ledger."""
    yield from _open(LedgeredShop(installation, _name()), pytestconfig)


@pytest.fixture(scope="module")
def nodes(installation: Installation) -> Iterator[Nodes]:
    """The way to the processes of the nodes."""
    made = Nodes(installation.cluster)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def operators(installation: Installation) -> Operators:
    """Two operators that have just started, of which one leads."""
    found = Operators(installation)
    found.renew()
    found.settled()
    return found


def _name() -> str:
    return f"shop-{next(_numbers)}-{os.getpid()}"


def _open(made: AnyShop, config: pytest.Config) -> Iterator[AnyShop]:
    witnesses = config.stash[_WITNESSES]
    witnesses.append(made)
    made.create()
    yield made
    witnesses.remove(made)
    made.remove()


@pytest.fixture(scope="session")
def delays(pytestconfig: pytest.Config) -> Delays:
    """Where tests put how long messages of dead processes waited; shown at the end of the session."""
    return pytestconfig.stash.setdefault(_DELAYS, Delays())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a failure tell, while all of it is still there, what happened in the cluster; a file keeps it."""
    report = yield
    told = item.config.stash.setdefault(_TOLD, set())
    witnesses = item.config.stash.get(_WITNESSES, [])
    if report.failed and call.excinfo is not None and call.excinfo.value not in told and witnesses:
        told.add(call.excinfo.value)
        # A shop tells of the installation too.
        shops = [witness for witness in witnesses if isinstance(witness, Shop)]
        text = "\n".join(witness.diagnosis() for witness in shops or witnesses)
        path = _FOLDER / "failures" / f"{_UNFIT.sub('-', item.nodeid)}.{call.when}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        report.sections.append((f"the cluster then, also in {path.relative_to(ROOT)}", text))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the delays, and keep them."""
    found = config.stash.get(_DELAYS, None)
    if found is not None:
        for line in found.table():
            terminalreporter.write_line(line)
        found.write(_FOLDER / "delays.json")
