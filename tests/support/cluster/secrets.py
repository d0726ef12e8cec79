"""Lets an image's build install Python packages the way this machine does, without any trace of it in the image.

A Dockerfile asks for it with `RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false
--mount=type=secret,id=ca,target=/etc/pip-ca.pem,required=false`; both are mounts, so no layer holds them, and the same
file builds where nobody offers them.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.commands import run

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Where the Dockerfiles mount the authorities' certificates.
CA_TARGET = "/etc/pip-ca.pem"
#: The settings that say where packages come from; folders of this machine do not exist in a build.
_KEPT = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout", "retries")
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def read_settings(listing: str) -> dict[str, str]:
    """Read what `pip config list` prints; the environment's settings win, as in pip itself."""
    settings: dict[str, str] = {}
    of_environment: dict[str, str] = {}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        scope, dot, name = key.rpartition(".")
        if equals and dot and scope in {"global", "install", ":env:"}:
            words = shlex.split(value)
            (of_environment if scope == ":env:" else settings)[name] = words[0] if words else ""
    return settings | of_environment


def certificates(settings: Mapping[str, str], environment: Mapping[str, str]) -> Path | None:
    """Find the authorities that this machine's pip trusts, where that is not left to pip."""
    candidates = [settings.get("cert"), *(environment.get(name) for name in _CA_VARIABLES)]
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


def build_secrets(folder: Path) -> list[str]:
    """Write the secrets into a folder and give the arguments for `docker build` or `buildah build`."""
    settings = read_settings(run([sys.executable, "-m", "pip", "config", "list"]))
    ca = certificates(settings, os.environ)
    lines = ["[global]", *(f"{name} = {settings[name]}" for name in _KEPT if name in settings)]
    if ca is not None:
        lines.append(f"cert = {CA_TARGET}")
    configuration = folder / "pip.conf"
    configuration.write_text("\n".join(lines) + "\n")
    arguments = ["--secret", f"id=pip,src={configuration}"]
    if ca is not None:
        arguments += ["--secret", f"id=ca,src={ca}"]
    return arguments
