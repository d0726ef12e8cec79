"""A real PostgreSQL server for tests, and a fresh database for each of them.

The server's programs come from the machine (`pg_config`, PATH, or where Debian puts them). As root it runs under
the account `postgres`, because PostgreSQL refuses root. Nothing of it outlives the test session, also where that is
killed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSWORD = "canary-Pa55word"
_START_SECONDS = 60
#: Waits until the process of the tests is gone or says so, and removes what it left; $0 is pg_ctl, $1 the folder.
_GUARD = 'read -r _; "$0" -D "$1/data" -w -m immediate stop >/dev/null 2>&1; rm -rf "$1"'


class PostgresMissingError(Exception):
    """The machine has no PostgreSQL server."""


def program(name: str) -> Path:
    """Find a program of the server.

    Raises:
        PostgresMissingError: there is no server on this machine; the message says what to install.
    """
    candidates = [Path(found).resolve() for found in [shutil.which(name)] if found]
    candidates += sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    # Debian's wrappers on PATH are scripts that know its own clusters only.
    real = [path for path in candidates if path.name == name and path.is_file()]
    if not real:
        message = (
            f"PostgreSQL's program {name} is missing; install a PostgreSQL server (Debian: postgresql), 14 or later."
        )
        raise PostgresMissingError(message)
    return real[0]


def free_port() -> int:
    """A TCP port that nobody holds at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class PostgresServer:
    """One server process with a data directory of its own."""

    port: int = field(default_factory=free_port)
    #: Where it listens; a test that talks to it from another network namespace needs more than loopback.
    listen: str = "127.0.0.1"
    _root: Path | None = None
    _guard: subprocess.Popen[bytes] | None = None

    @property
    def _account(self) -> str | None:
        return "postgres" if os.geteuid() == 0 else None

    @property
    def _as_account(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account, "group": pwd.getpwnam(self._account).pw_gid, "extra_groups": []}

    def _run(self, *argv: str | Path) -> None:
        subprocess.run(
            [str(part) for part in argv],
            check=True,
            capture_output=True,
            cwd="/",
            timeout=_START_SECONDS + 10,
            **self._as_account,
        )

    def _make_root(self) -> Path:
        """Make the folder of the data, and have it removed together with the server also where the tests are killed."""
        self._root = root = Path(tempfile.mkdtemp(prefix="pgqrs-postgres-"))
        if self._account:
            shutil.chown(root, self._account)
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, program("pg_ctl"), root],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # Ctrl-C is for the tests; they end the server in their own time.
            start_new_session=True,
            **self._as_account,
        )
        return root

    @property
    def data(self) -> Path:
        """The data directory."""
        assert self._root is not None, "the server was not created"
        return self._root / "data"

    def create(self) -> None:
        """Make the data directory and start the server."""
        password_file = self._make_root() / "password"
        password_file.write_text(PASSWORD)
        if self._account:
            shutil.chown(password_file, self._account)
        self._run(
            program("initdb"), "-D", self.data, "-U", "postgres", "-A", "scram-sha-256",
            f"--pwfile={password_file}", "-E", "UTF8", "--no-sync",
        )  # fmt: skip
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host all all all scram-sha-256\n")
        with (self.data / "postgresql.conf").open("a") as file:
            # Only the crash of the machine could lose what fsync protects; a killed server loses nothing.
            file.write("fsync = off\nmax_connections = 300\nunix_socket_directories = ''\n")
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._run(
            program("pg_ctl"), "-D", self.data, "-w", "-t", str(_START_SECONDS), "-l", self.data.parent / "log",
            "-o", f"-p {self.port} -c listen_addresses={self.listen}", "start",
        )  # fmt: skip

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; `immediate` is a crash, `fast` cuts all connections in an orderly way."""
        self._run(program("pg_ctl"), "-D", self.data, "-w", "-m", mode, "stop")

    def reload(self, **settings: str) -> None:
        """Change settings that need no restart; connections that are open notice it a moment later."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._run(program("pg_ctl"), "-D", self.data, "reload")

    def put(self, name: str, content: bytes) -> Path:
        """Put a file beside the data, readable for the server alone."""
        assert self._root is not None, "the server was not created"
        path = self._root / name
        path.write_bytes(content)
        path.chmod(0o600)
        if self._account:
            shutil.chown(path, self._account, self._account)
        return path

    def standby(self) -> PostgresServer:
        """Make and start a server that follows this one and takes no writes until it is promoted."""
        follower = PostgresServer(listen=self.listen)
        follower._make_root()
        self._run(
            program("pg_basebackup"), "-D", follower.data, "-d", self.dsn(), "-R", "-c", "fast", "-X", "stream",
            "--no-sync",
        )  # fmt: skip
        follower.start()
        return follower

    def promote(self) -> None:
        """Make a standby a primary."""
        self._run(program("pg_ctl"), "-D", self.data, "-w", "-t", str(_START_SECONDS), "promote")

    def destroy(self) -> None:
        """Stop the server and remove all of it."""
        if self._root is None:
            return
        if (self.data / "postmaster.pid").exists():
            self.stop()
        if self._guard is not None:
            self._guard.communicate()
        # Where we are root, the account that the guard runs as may not remove the folder itself.
        shutil.rmtree(self._root, ignore_errors=True)

    def dsn(self, database: str = "postgres") -> str:
        """The address of a database, with the password."""
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{database}"
