import ipaddress
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster.errors import ClusterError
from tests.support.cluster.local import slots
from tests.support.cluster.local.components import Component, control_plane_files, dump, load
from tests.support.cluster.local.layout import SLOTS, Layout, block, check_name


@pytest.mark.parametrize("name", ["pgqrs", "a", "two-2", "x" * 20])
def test_names_that_can_be_used(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "2two", "Upper", "dash-", "under_score", "../up", "x" * 21])
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot name a cluster"):
        check_name(name)


def test_all_addresses_of_a_cluster_are_its_own() -> None:
    layout = Layout("one", Path("/state/one"), SLOTS - 1, 2)
    networks = [ipaddress.IPv4Network(layout.host_address, strict=False)]
    networks += [ipaddress.IPv4Network(network) for network in layout.routed]
    assert all(network.subnet_of(block(layout.slot)) for network in networks)
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
    assert ipaddress.IPv4Address(layout.api_address) in networks[0]
    assert ipaddress.IPv4Address(layout.dns_address) in ipaddress.IPv4Network(layout.services)
    assert not block(layout.slot).overlaps(block(layout.slot - 1))
    assert len(layout.host_interface) <= 15, "the kernel takes no longer name"


def test_nodes_share_neither_folder_nor_address() -> None:
    first, second = Layout("one", Path("/state/one"), 3, 2).node_list()
    shared = {first.name, first.root, first.address, first.pods, first.cgroup} & {
        second.name, second.root, second.address, second.pods, second.cgroup,
    }  # fmt: skip
    assert not shared


def test_a_name_keeps_its_slot_while_it_is_free() -> None:
    usual = slots.choose("pgqrs", [], [])
    assert slots.choose("pgqrs", [], []) == usual
    assert slots.choose("pgqrs", [usual], []) != usual


def test_a_block_with_a_route_is_left_to_it() -> None:
    usual = slots.choose("pgqrs", [], [])
    inside = next(block(usual).subnets(new_prefix=24))
    assert slots.choose("pgqrs", [], [inside]) != usual


def test_no_slot_left() -> None:
    with pytest.raises(ClusterError, match="remove a cluster"):
        slots.choose("pgqrs", range(SLOTS), [])


def test_half_made_clusters_have_a_slot(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "box.json").write_text(json.dumps({"slot": 7}))
    (tmp_path / "nothing-yet").mkdir()
    assert slots.taken(tmp_path) == [7]


def test_components_survive_the_way_to_the_supervisor() -> None:
    components = (
        Component("one", ("/bin/one", "--flag"), "http://127.0.0.1:1/", ("zero",)),
        Component("two", ("/bin/two",)),
    )
    assert load(dump(components)) == components


def test_every_pod_can_reach_itself_by_its_service() -> None:
    layout = Layout("one", Path("/state/one"), 0, 2)
    rules = control_plane_files(layout)[layout.network_rules]
    for node in layout.node_list():
        first, *_, last = ipaddress.IPv4Network(node.pods).hosts()
        assert f"{first} . {first}" in rules
        assert f"{last} . {last}" in rules


def test_the_supervisor_refuses_to_run_outside_a_box(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.support.cluster.local.supervisor", str(tmp_path)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "use `python -m tests.support.cluster`" in result.stderr
