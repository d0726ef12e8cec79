from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support import packages
from tests.support.packages import GROUPS, Package, PackagesMissingError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster_support.programs import FakePrograms


@pytest.fixture
def appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for a program which the group `tool` needs and the machine lacks."""
    path = tmp_path / "tool"
    monkeypatch.setitem(GROUPS, "tool", (Package("tool-package", path.exists),))
    return path


def test_what_is_there_is_not_installed(fake_programs: FakePrograms, appears: Path) -> None:
    fake_programs.add("apt-get")
    appears.touch()
    assert packages.install("tool") == []
    assert not fake_programs.calls


def test_what_is_missing_is_named_where_it_cannot_be_installed(
    fake_programs: FakePrograms, appears: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_programs.add("apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert packages.main(["tool"]) == 1
    assert "lacks tool-package" in capsys.readouterr().err
    assert not fake_programs.calls
    assert not appears.exists()


def test_what_is_missing_is_installed(
    fake_programs: FakePrograms, appears: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_programs.folder / "touch").symlink_to("/usr/bin/touch")
    program = fake_programs.folder / "apt-get"
    program.write_text(f'#!/bin/sh\necho "$@" >>{fake_programs.folder}/said\n[ $1 = update ] || touch {appears}\n')
    program.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert packages.install("tool") == ["tool-package"]
    assert (fake_programs.folder / "said").read_text().splitlines() == [
        "update --quiet",
        "install --quiet --yes --no-install-recommends tool-package",
    ]


def test_a_failure_shows_what_apt_said(
    fake_programs: FakePrograms, appears: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_programs.add("apt-get", {"update": ("no such mirror", 100)})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PackagesMissingError, match="no such mirror"):
        packages.install("tool")
    assert not appears.exists()


@pytest.mark.parametrize(
    "before", ["#create_main_cluster = true\nother = 1\n", "create_main_cluster=true\nother = 1\n", "other = 1\n"]
)
def test_postgresql_comes_without_a_running_server(
    before: str, fake_programs: FakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = tmp_path / "createcluster.conf"
    setting.write_text(before)
    server = tmp_path / "initdb"
    monkeypatch.setattr(packages, "_CREATE_CLUSTER", setting)
    monkeypatch.setitem(GROUPS, "postgresql", (Package("postgresql", server.exists),))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (fake_programs.folder / "cp").symlink_to("/usr/bin/cp")
    program = fake_programs.folder / "apt-get"
    program.write_text(f"#!/bin/sh\n[ $1 = update ] || cp {setting} {server}\n")
    program.chmod(0o755)
    packages.install("postgresql")
    assert [line for line in server.read_text().splitlines() if "create_main_cluster" in line] == [
        "create_main_cluster = false"
    ]
    assert "other = 1" in server.read_text()
    assert setting.read_text() == before, "the owner's setting is back"


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert packages.main(["no-such-group"]) == 2
    assert "postgresql" in capsys.readouterr().err
