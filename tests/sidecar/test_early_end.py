"""A sidecar that is told to end while it still starts."""

from __future__ import annotations

import signal
import subprocess
import sys


def test_a_sigterm_that_comes_before_there_is_a_handler_is_not_lost() -> None:
    # As the image starts it: a child begins with the signals blocked that its parent has blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        command = (sys.executable, "-m", "pgqrs_sidecar")
        sidecar = subprocess.Popen(command, env={}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with sidecar:
        sidecar.terminate()
        said, _ = sidecar.communicate(timeout=30.0)
    # Without any setting, one that did not hear it would say what it lacks.
    assert (sidecar.returncode, said) == (0, b"")
