"""The real sidecar and real apps as processes of a test, which ends them all; nothing of them outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from pgqrs import protocol
from tests.support.postgres import free_port

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Awaitable, Callable

_Seen = TypeVar("_Seen")

TOKEN = "canary-t0ken"
QUEUE = "emails"
HOSTNAME = "web-1.shop"
POD_UID = "0d5f7a0e-web-1"

#: Short enough for a test, in the same order to each other as the real ones.
_TIMES = {
    "PGQRS_HEARTBEAT_SECONDS": "0.2",
    "PGQRS_PING_SECONDS": "0.1",
    "PGQRS_PONG_SECONDS": "1",
    "PGQRS_REJOIN_SECONDS": "3",
    "PGQRS_DRAIN_SECONDS": "15",
}
CHECKOUT = Path(__file__).parents[2]


async def eventually(look: Callable[[], Awaitable[_Seen]], *, within: float = 10.0) -> _Seen:
    """Look again and again until what is seen is true, and give it; the last look is the failure's message."""
    seen: _Seen | None = None
    try:
        async with asyncio.timeout(within):
            while not (seen := await look()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        message = f"not within {within} s; seen last: {seen!r}"
        raise AssertionError(message) from None
    return seen


class Process:
    """A Python program that prints JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        self.output = ""
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, *argv: str, env: dict[str, str]) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *argv,
            env={"PATH": os.environ["PATH"], **env},
            cwd=CHECKOUT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode()
            self.output += text
            if text.startswith("{"):
                self.lines.append(json.loads(text))

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def line(self, within: float = 10.0, **fields: Any) -> dict[str, Any]:
        """Wait for a line that has these fields."""

        async def look() -> dict[str, Any] | None:
            return next((line for line in self.lines if fields.items() <= line.items()), None)

        try:
            found = await eventually(look, within=within)
        except AssertionError as error:
            message = f"no line with {fields} in:\n{self.output}"
            raise AssertionError(message) from error
        assert found is not None
        return found

    def count(self, **fields: Any) -> int:
        return sum(fields.items() <= line.items() for line in self.lines)

    async def ended(self, within: float = 10.0) -> int:
        """Wait for the end, and give the exit code."""
        async with asyncio.timeout(within):
            code = await self._process.wait()
            await self._reader
        return code

    async def destroy(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self.ended()


@dataclass
class Pod:
    """The containers of one pod: a sidecar and apps, with the environment that the injector would give them."""

    dsn: str
    env: dict[str, str] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    session_port: int = field(default_factory=free_port)
    _processes: list[Process] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PGQRS_DSN": self.dsn,
            "PGQRS_QUEUE": QUEUE,
            "PGQRS_HOSTNAME": HOSTNAME,
            "PGQRS_POD_NAME": "web-1",
            "PGQRS_POD_NAMESPACE": "shop",
            "PGQRS_POD_UID": POD_UID,
            "PGQRS_SIDECAR_TOKEN": TOKEN,
            "PGQRS_SIDECAR_HTTP_PORT": str(self.http_port),
            "PGQRS_SIDECAR_SESSION_PORT": str(self.session_port),
            **_TIMES,
            **self.env,
        }

    async def sidecar(self, *, started: bool = True, **env: str) -> Process:
        """Start the sidecar and, unless told otherwise, wait until it is started."""
        process = await Process.start("pgqrs_sidecar", env={**self.environment, **env})
        self._processes.append(process)
        await process.line(message="sidecar listens")
        if started:
            await eventually(self.is_started)
        return process

    async def app(self, handler_seconds: float = 0.0, *, container: str = "app", **env: str) -> Process:
        """Start a consumer in a container, and wait until it has its worker."""
        process = await Process.start(
            "tests.sidecar.app",
            str(handler_seconds),
            env={
                **self.environment,
                "PGQRS_SIDECAR": f"127.0.0.1:{self.session_port}",
                "PGQRS_CONTAINER": container,
                **env,
            },
        )
        self._processes.append(process)
        await process.line(event="started")
        return process

    async def get(self, path: str, *, token: str | None = None, within: float = 30.0) -> tuple[int, str]:
        """Ask the sidecar by HTTP."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within)) as client:
            url = f"http://127.0.0.1:{self.http_port}{path}"
            async with client.get(url, params={} if token is None else {"token": token}) as answer:
                return answer.status, await answer.text()

    async def is_started(self) -> bool:
        return (await self.get("/started"))[0] == 200

    async def state(self) -> dict[str, Any]:
        status, text = await self.get("/state", token=TOKEN)
        assert status == 200
        found: dict[str, Any] = json.loads(text)
        return found

    @asynccontextmanager
    async def session(self, **hello: Any) -> AsyncIterator[RawSession]:
        """Open a session by hand; `hello` replaces fields of the usual hello."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.session_port, limit=protocol.MAX_LINE)
        try:
            session = RawSession(reader, writer)
            fields = {
                "protocol": 1, "token": TOKEN, "queue": QUEUE, "container": "app", "pid": 7, "worker_id": None, **hello,
            }  # fmt: skip
            session.send("hello", **fields)
            yield session
        finally:
            writer.close()

    async def destroy(self) -> None:
        for process in self._processes:
            await process.destroy()


class RawSession:
    """A session spoken line by line, as an app in another language would; pings are answered while it waits."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, kind: str, **fields: Any) -> None:
        self._writer.write(protocol.encode(kind, **fields))

    def write(self, line: bytes) -> None:
        self._writer.write(line)

    async def next(self, *, pong: bool = True, within: float = 10.0) -> dict[str, Any] | None:
        """The next message that is no ping; None at the end."""
        async with asyncio.timeout(within):
            while True:
                try:
                    message = await protocol.receive(self._reader)
                except ConnectionResetError:
                    return None
                if message is None or message["type"] != protocol.PING:
                    return message
                if pong:
                    self.send("pong", n=message["n"])

    async def welcome(self) -> dict[str, Any]:
        message = await self.next()
        assert message is not None
        assert message["type"] == "welcome", message
        return message
