"""A real PgBouncer in transaction mode in front of a test's PostgreSQL, as many clusters have it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.postgres import PASSWORD, PostgresServer, free_port

_SECONDS = 20.0


class PgBouncerMissingError(Exception):
    """The machine has no PgBouncer."""


@dataclass
class PgBouncer:
    """One process with a folder of its own. As root it runs under the account `postgres`, because it refuses root."""

    server: PostgresServer
    #: Connections to the server for each database and user; fewer than clients, so that these do share them.
    pool_size: int = 2
    port: int = field(default_factory=free_port)
    _root: Path | None = None
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            PgBouncerMissingError: there is none; the message says what to install.
        """
        program = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
        if program is None:
            message = "PgBouncer is missing; install it (Debian: pgbouncer)."
            raise PgBouncerMissingError(message)
        self._root = Path(tempfile.mkdtemp(prefix="pgqrs-pgbouncer-"))
        users = self._root / "users"
        users.write_text(f'"postgres" "{PASSWORD}"\n')
        config = self._root / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            f"default_pool_size = {self.pool_size}\nmax_client_conn = 200\n"
        )
        account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if account:
            for path in (self._root, users, config):
                os.chown(path, account.pw_uid, account.pw_gid)
        with (self._root / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, str(config)],
                stdout=log,
                stderr=log,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                cwd="/",
            )
        deadline = time.monotonic() + _SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self._root / "log").read_text()
                self.stop()
                message = f"PgBouncer does not listen:\n{said}"
                raise AssertionError(message)
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it and remove all of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_SECONDS)
        if self._root is not None:
            shutil.rmtree(self._root)

    def dsn(self, database: str = "postgres") -> str:
        """The address of a database through it, with the password."""
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{database}"
