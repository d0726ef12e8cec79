"""Upstream's real client: the wheel of `pgqrs` 0.15.3 in a virtual environment of its own, driven as a process.

Its import name is ours, so the two never share an environment. The environment is made once and kept in the test
cache; without the package index and without that cache there is nothing to test against, and the tests fail.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.cluster.programs import cache_root, exclusive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VERSION = "0.15.3"
#: Less than a test may take, so that it is our message that is read.
_INSTALL_SECONDS = 100
_CALL_SECONDS = 30
#: Speaks our lines of JSON on one side and upstream's API on the other.
_DRIVER = Path(__file__).parent.parent / "interop" / "upstream_client.py"


class UpstreamMissingError(Exception):
    """Upstream's wheel could not be installed; the message says why and what to do."""


class UpstreamError(Exception):
    """Upstream's client raised an error."""

    def __init__(self, kind: str, message: str) -> None:
        """Keep the name of its class, which is not ours to import."""
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def python() -> Path:
    """Give the Python of an environment that holds upstream's wheel; the second time it is there already.

    Raises:
        UpstreamMissingError: the wheel cannot be installed.
    """
    tag = f"{sys.implementation.cache_tag}"
    target = cache_root() / "upstream" / f"pgqrs-{VERSION}-{tag}"
    complete = target / "complete"
    program = target / "bin" / "python"
    with exclusive(f"upstream-{VERSION}"):
        if not complete.exists():
            # What an earlier run left unfinished is not to be trusted.
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            _run(sys.executable, "-m", "venv", str(target))
            _run(str(program), "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"pgqrs=={VERSION}")
            complete.touch()
    return program


def _run(*arguments: str) -> None:
    try:
        result = subprocess.run(
            arguments, capture_output=True, text=True, timeout=_INSTALL_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"Upstream's wheel pgqrs=={VERSION} could not be installed: no end after {error.timeout} s."
        raise UpstreamMissingError(message) from error
    if result.returncode != 0:
        said = "\n".join((result.stdout + result.stderr).strip().splitlines()[-5:])
        message = (
            f"Upstream's wheel pgqrs=={VERSION} could not be installed from the package index, and the tests of "
            f"interoperability need the real one. Make the index reachable for pip and run them again. It said:\n{said}"
        )
        raise UpstreamMissingError(message)


class UpstreamClient:
    """A process that runs upstream's client, one call at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._one = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The process's id, for killing it."""
        return self._process.pid

    async def call(self, verb: str, **arguments: Any) -> Any:
        """Have it do something and give what came of it.

        Raises:
            UpstreamError: upstream's client raised an error.
            ConnectionError: the process is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._one, asyncio.timeout(_CALL_SECONDS):
            self._process.stdin.write(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        if not line:
            message = f"Upstream's client ended during {verb!r} with code {await self._process.wait()}."
            raise ConnectionError(message)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UpstreamError(answer["error"], answer["message"])
        return answer["result"]

    async def kill(self) -> None:
        """End the process as a crash does."""
        self._process.kill()
        await self._process.wait()

    async def close(self) -> None:
        """Let the process end by itself; it says nothing to the database when it does."""
        assert self._process.stdin is not None
        if self._process.returncode is None:
            self._process.stdin.close()
            try:
                async with asyncio.timeout(5):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()


@asynccontextmanager
async def client(dsn: str, *, schema: str = "public") -> AsyncIterator[UpstreamClient]:
    """Run upstream's client on a database.

    Raises:
        UpstreamMissingError: the wheel cannot be installed.
        UpstreamError: it could not connect.
    """
    program = await asyncio.to_thread(python)
    process = await asyncio.create_subprocess_exec(
        program,
        # Isolated: neither the checkout, whose package has the same name, nor the environment's variables.
        "-I",
        _DRIVER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd="/",
        env={},
    )
    running = UpstreamClient(process)
    try:
        await running.call("connect", dsn=dsn, schema=schema)
        yield running
    finally:
        await running.close()
