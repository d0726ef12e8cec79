from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.errors import ClusterError, MissingPrerequisiteError
from tests.support.cluster.kind import KindCluster
from tests.support.cluster.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster_support.programs import FakePrograms

_TWO_NODES = {"get nodes": ("True\nTrue", 0)}


@pytest.fixture
def kind(fake_programs: FakePrograms) -> KindCluster:
    """A cluster by fake programs: it exists not, and its nodes are Ready at once."""
    fake_programs.add("docker")
    fake_programs.add("helm")
    fake_programs.add("kind")
    fake_programs.add("kubectl", _TWO_NODES)
    return KindCluster("trial", Progress(quiet=True))


def _exists(fake_programs: FakePrograms) -> None:
    fake_programs.add("kind", {"get clusters": ("other\ntrial", 0)})


def _of_kind(fake_programs: FakePrograms) -> list[list[str]]:
    return [call[1:] for call in fake_programs.calls if call[0] == "kind"]


def test_up_makes_a_cluster_with_a_kubeconfig_of_its_own(kind: KindCluster, fake_programs: FakePrograms) -> None:
    kind.up(nodes=2)
    assert _of_kind(fake_programs) == [
        ["get", "clusters"],
        ["create", "cluster", "--name=trial", f"--kubeconfig={kind.kubeconfig}", "--config=-"],
    ]
    assert [node["role"] for node in json.loads(fake_programs.stdin)["nodes"]] == ["control-plane", "worker"]
    assert fake_programs.calls[-1][:3] == ["kubectl", "wait", "--for=condition=Ready"]


def test_up_keeps_a_healthy_cluster(kind: KindCluster, fake_programs: FakePrograms) -> None:
    _exists(fake_programs)
    kind.up(nodes=2)
    assert _of_kind(fake_programs) == [["get", "clusters"]]


def test_up_replaces_a_cluster_with_too_few_nodes(kind: KindCluster, fake_programs: FakePrograms) -> None:
    _exists(fake_programs)
    kind.up(nodes=3)
    assert [call[:2] for call in _of_kind(fake_programs)] == [
        ["get", "clusters"],
        ["delete", "cluster"],
        ["create", "cluster"],
    ]


def test_up_says_what_to_install(kind: KindCluster, fake_programs: FakePrograms) -> None:
    (fake_programs.folder / "helm").unlink()
    with pytest.raises(MissingPrerequisiteError, match="lacks helm"):
        kind.up()


def test_down_removes_the_cluster_and_its_folder(kind: KindCluster, fake_programs: FakePrograms) -> None:
    kind.up()
    kind.down()
    assert _of_kind(fake_programs)[-1] == [
        "delete", "cluster", "--name=trial", f"--kubeconfig={kind.kubeconfig}",
    ]  # fmt: skip
    assert not kind.kubeconfig.parent.exists()


def test_an_image_of_a_registry_is_pulled_once(kind: KindCluster, fake_programs: FakePrograms) -> None:
    kind.load_image("thing:1")
    assert ["docker", "pull", "--quiet", "thing:1"] in fake_programs.calls
    assert _of_kind(fake_programs) == [["load", "docker-image", "thing:1", "--name=trial"]]
    fake_programs.add("docker", {"images --quiet thing:1": ("sha256:1", 0)})
    kind.load_image("thing:1")
    assert fake_programs.calls.count(["docker", "pull", "--quiet", "thing:1"]) == 1


def test_an_archive_is_loaded_as_such(kind: KindCluster, fake_programs: FakePrograms, tmp_path: Path) -> None:
    kind.load_image(tmp_path / "image.tar")
    assert _of_kind(fake_programs) == [["load", "image-archive", str(tmp_path / "image.tar"), "--name=trial"]]


def test_a_build_offers_this_machines_package_index(
    kind: KindCluster, fake_programs: FakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("authority")
    monkeypatch.setenv("PIP_CERT", str(authority))
    fake_programs.add("docker", {"images": ("sha256:1", 0)})
    kind.build_image(tmp_path / "Dockerfile", "thing:1", context=tmp_path, build_args={"B": "2", "A": "1"})
    build = next(call for call in fake_programs.calls if call[:2] == ["docker", "build"])
    assert build[2:11] == [
        *("--quiet", "--file", str(tmp_path / "Dockerfile"), "--tag", "thing:1"),
        *("--build-arg", "A=1", "--build-arg", "B=2"),
    ]  # fmt: skip
    assert build[11] == "--secret"
    assert build[12].startswith("id=pip,src=")
    assert build[13:] == ["--secret", f"id=ca,src={authority}", str(tmp_path)]
    assert ["load", "docker-image", "thing:1", "--name=trial"] in _of_kind(fake_programs)


def test_a_failure_shows_what_kind_said(kind: KindCluster, fake_programs: FakePrograms) -> None:
    fake_programs.add("kind", {"create": ("no space left", 1)})
    with pytest.raises(ClusterError, match="no space left"):
        kind.up()


def test_status(kind: KindCluster, fake_programs: FakePrograms) -> None:
    assert not kind.status().healthy
    _exists(fake_programs)
    assert kind.status().healthy
    assert shutil.which("kind") == str(fake_programs.folder / "kind")
    (fake_programs.folder / "kind").unlink()
    assert "not installed" in kind.status().details[0]
