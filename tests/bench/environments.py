"""An environment of its own for each contender, made once and kept in the test cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import upstream
from tests.support.cluster.programs import cache_root, exclusive

_REQUIREMENTS = Path(__file__).parent / "requirements"
_INSTALL_SECONDS = 300


class EnvironmentMissingError(Exception):
    """A contender's packages could not be installed; the message says why and what to do."""


def python(name: str) -> Path:
    """Give the interpreter of the environment of this name, the file `requirements/NAME.txt`.

    Raises:
        EnvironmentMissingError: its packages cannot be installed.
    """
    if name == "upstream":
        try:
            return upstream.python()
        except upstream.UpstreamMissingError as error:
            raise EnvironmentMissingError(str(error)) from error
    requirements = _REQUIREMENTS / f"{name}.txt"
    version = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    target = cache_root() / "bench" / f"{name}-{version}-{sys.implementation.cache_tag}"
    complete = target / "complete"
    program = target / "bin" / "python"
    with exclusive(f"bench-{name}"):
        if not complete.exists():
            # What an earlier run left unfinished is not to be trusted.
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            _run(name, sys.executable, "-m", "venv", str(target))
            _run(name, str(program), "-m", "pip", "install", "--quiet", "--only-binary=:all:", "-r", str(requirements))
            complete.touch()
    return program


def _run(name: str, *arguments: str) -> None:
    try:
        result = subprocess.run(
            arguments, capture_output=True, text=True, timeout=_INSTALL_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"The packages of {name} could not be installed within {_INSTALL_SECONDS} s; try again."
        raise EnvironmentMissingError(message) from error
    if result.returncode != 0:
        said = "".join((result.stdout + result.stderr).strip().splitlines()[-1:])
        message = f"The packages of {name} could not be installed; make the package index reachable for pip: {said}"
        raise EnvironmentMissingError(message)
