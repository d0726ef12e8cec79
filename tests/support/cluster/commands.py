"""Runs programs with a deadline and turns a failure into an error that shows what the program said."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.errors import ClusterError, MissingPrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LINES_SHOWN = 15


def tail(text: str, lines: int = _LINES_SHOWN) -> str:
    """Give the last lines of a program's output."""
    return "\n".join(text.strip().splitlines()[-lines:])


def run(
    argv: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    directory: Path | None = None,
    timeout: float = 60.0,
) -> str:
    """Run a program to its end and give its standard output.

    Args:
        argv: The program and its arguments.
        environment: Variables on top of this process's own.
        stdin: Text for its standard input.
        directory: Where to run it.
        timeout: Seconds until it is killed.

    Raises:
        MissingPrerequisiteError: The program is not installed.
        ClusterError: It failed or took too long; the message ends with its last lines.
    """
    name = Path(argv[0]).name
    try:
        result = subprocess.run(
            [str(word) for word in argv],
            env={**os.environ, **(environment or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        message = f"The program `{name}` is not installed."
        raise MissingPrerequisiteError(message) from error
    except subprocess.TimeoutExpired as error:
        message = f"`{name}` was killed after {timeout:g} s."
        raise ClusterError(message) from error
    if result.returncode != 0:
        words = " ".join(str(word) for word in argv[1:6])
        message = f"`{name} {words}` failed ({result.returncode}):\n{tail(result.stderr + result.stdout)}"
        raise ClusterError(message)
    return result.stdout


def wait_for(condition: Callable[[], bool], *, what: str, timeout: float, interval: float = 0.1) -> None:
    """Ask until the condition holds.

    Args:
        condition: Asked every `interval` seconds; may raise ClusterError to give up at once.
        what: What is waited for, as the end of a sentence that starts with "Gave up waiting for".
        timeout: Seconds until it gives up.
        interval: Seconds between two questions.

    Raises:
        ClusterError: The condition did not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            message = f"Gave up waiting for {what} after {timeout:g} s."
            raise ClusterError(message)
        time.sleep(interval)
