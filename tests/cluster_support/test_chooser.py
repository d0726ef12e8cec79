from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import __main__ as command
from tests.support.cluster import choose
from tests.support.cluster.errors import ClusterError, MissingPrerequisiteError
from tests.support.cluster.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster_support.programs import FakePrograms
    from tests.support.cluster.provider import Cluster

_ENGINE = {"info": ("29.1.0", 0)}
_NO_ENGINE = {"info": ("", 1)}


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQRS_TEST_KUBECONFIG", raising=False)


def _chosen(name: str = "chosen") -> Cluster:
    return choose(name, progress=Progress(quiet=True))


def test_docker_and_kind_give_a_kind_cluster(fake_programs: FakePrograms) -> None:
    fake_programs.add("docker", _ENGINE)
    fake_programs.add("kind")
    assert _chosen().provider == "kind"


def test_without_an_engine_kind_is_of_no_use(fake_programs: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_programs.add("docker", _NO_ENGINE)
    fake_programs.add("kind")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _chosen().provider == "local"


def test_without_kind_an_engine_is_of_no_use(fake_programs: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_programs.add("docker", _ENGINE)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _chosen().provider == "local"
    assert not fake_programs.calls, "no need to ask"


def test_nothing_is_possible(
    fake_programs: FakePrograms, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not fake_programs.calls
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingPrerequisiteError, match="install Docker and kind, or run this as root"):
        _chosen()
    assert command.main(["up"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, "one line, no traceback"


def test_a_named_cluster_is_used_and_never_removed(
    fake_programs: FakePrograms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_programs.add("docker", _ENGINE)
    fake_programs.add("kind")
    fake_programs.add("kubectl", {"get nodes": ("True\nTrue\nFalse", 0)})
    kubeconfig = tmp_path / "kubeconfig"
    monkeypatch.setenv("PGQRS_TEST_KUBECONFIG", str(kubeconfig))
    cluster = _chosen()
    assert cluster.provider == "kubeconfig"
    assert cluster.environment["KUBECONFIG"] == str(kubeconfig)
    cluster.up(nodes=2)
    with pytest.raises(ClusterError, match="2 nodes that are Ready; 3 are wanted"):
        cluster.up(nodes=3)
    assert cluster.status().healthy
    with pytest.raises(ClusterError, match="push it to a registry"):
        cluster.build_image(tmp_path / "Dockerfile", "thing:1", context=tmp_path)
    with pytest.raises(ClusterError, match="push it to a registry"):
        cluster.load_image("thing:1")
    before = fake_programs.calls
    cluster.down()
    assert fake_programs.calls == before
    assert {call[0] for call in before} == {"kubectl"}


def test_a_named_cluster_that_does_not_answer(
    fake_programs: FakePrograms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_programs.add("kubectl", {"get nodes": ("The connection was refused", 1)})
    monkeypatch.setenv("PGQRS_TEST_KUBECONFIG", str(tmp_path / "kubeconfig"))
    status = _chosen().status()
    assert not status.healthy
    assert "refused" in status.details[0]
