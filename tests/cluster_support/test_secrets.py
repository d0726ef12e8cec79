from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.cluster.secrets import build_secrets, certificates, read_settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_LISTING = """\
:env:.index-url='https://env.example/simple'
:env:.find-links='/opt/wheels'
download.timeout='1'
global.cert='/etc/ca.pem'
global.index-url='https://file.example/simple'
global.trusted-host='it''s'
"""


def test_the_environment_wins_over_files() -> None:
    settings = read_settings(_LISTING)
    assert settings["index-url"] == "https://env.example/simple"
    assert settings["cert"] == "/etc/ca.pem"
    assert "timeout" not in settings, "another command's"


def test_the_authorities_are_those_of_pip_first(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.touch()
    theirs.touch()
    assert certificates({"cert": str(ours)}, {"SSL_CERT_FILE": str(theirs)}) == ours
    assert certificates({"cert": str(tmp_path / "gone")}, {"SSL_CERT_FILE": str(theirs)}) == theirs
    assert certificates({}, {}) is None


def test_settings_become_a_file_without_this_machines_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    monkeypatch.setenv("PIP_CERT", str(authority))
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    arguments = build_secrets(tmp_path)
    text = (tmp_path / "pip.conf").read_text()
    assert "index-url = https://index.example/simple\n" in text
    assert "cert = /etc/pip-ca.pem\n" in text
    assert str(tmp_path) not in text
    assert arguments[1] == f"id=pip,src={tmp_path / 'pip.conf'}"
    assert arguments[3] == f"id=ca,src={authority}"
