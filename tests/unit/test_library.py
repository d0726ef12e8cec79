"""The pure parts of the library: names, durations, settings, the protocol, and the set of public names."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgqrs
from pgqrs import database, duration, names, protocol
from pgqrs.settings import Settings

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1h30m", 5400), ("7d", 604800), ("1.5s", 1.5), ("250ms", 0.25), ("0s", 0)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration.parse(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "five", "5 s", "-5s", "5parsecs", "s", "5s ", "٣s", "9" * 400 + "d"])
def test_what_is_no_duration_is_refused_with_the_field_s_name(text: str) -> None:
    with pytest.raises(pgqrs.ValidationError, match="leaseDuration"):
        duration.parse(text, field="leaseDuration")


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert duration.parse(duration.render(value)) == value


@pytest.mark.parametrize("name", ["emails", "a b/c", "ü" * 255, "'; DROP TABLE pgqrs_queues; --"])
def test_queue_names_that_upstream_takes_are_taken(name: str) -> None:
    assert names.queue_name(name) == name


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "a\nb", "\0", " a", "a ", "\ud800", 5, None, b"a", ["a"]])
def test_other_queue_names_are_refused_with_what_is_allowed(name: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="1 to 255 printable"):
        names.queue_name(name)


@pytest.mark.parametrize(
    "value", ["x" * 10**6, 10**5000, [0] * 10**6, object()], ids=["text", "number", "list", "object"]
)
def test_what_was_passed_is_shown_in_short(value: Any) -> None:
    with pytest.raises(pgqrs.ValidationError) as refused:
        names.queue_name(value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["", "1a", 'a"b', "a-b", "x" * 64, "a\n", "a\0", 5, None, b"a"])
def test_schema_names_are_plain_identifiers(name: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="at most 63 characters"):
        names.schema_name(name)


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        ("postgresql://u:secret@db.example:5433/jobs", "db.example:5433/jobs"),
        ("postgresql://u:secret@db.example/jobs?password=secret", "db.example/jobs"),
        ("postgresql://u:secret@[::1/jobs", "the database"),
        ("postgresql://u:secret@db:port/jobs", "the database"),
        ("postgresql://app:/9hKsecret@db/jobs", "the database"),
        ("postgresql://app:54?secret@db/jobs", "the database"),
        ("postgresql://u:secret@db..example/jobs", "the database"),
        ("postgresql://u:secret@db-1:5432,db-2:5433/jobs", "db-1:5432,db-2:5433/jobs"),
    ],
)
def test_a_database_is_described_without_its_password(dsn: str, text: str) -> None:
    assert database.describe(dsn) == text


@pytest.mark.parametrize(
    "dsn",
    [
        "mysql://u:secret@db/jobs",
        "postgresql://u:secret@db:port/jobs",
        "postgresql://u:secret@db:99999/jobs",
        "postgresql://u:secret@db..example/jobs",
        f"postgresql://u:secret@{'x' * 64}.example/jobs",
        "postgresql://app:/9hKsecret@db/jobs",
        "postgresql://app:54?secret@db/jobs",
        "postgresql://app:54#secret@db/jobs",
    ],
)
def test_what_is_no_address_is_refused_at_once_and_not_quoted(dsn: str) -> None:
    with pytest.raises(pgqrs.ConfigurationError, match="postgresql://USER:PASSWORD@HOST:PORT/DATABASE") as refused:
        database.check_dsn(dsn)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("host", ["db", "db.", "db:5432", "[::1]:5432", "a,b:1", "", "10.0.0.1:5432"])
def test_addresses_of_all_kinds_are_taken(host: str) -> None:
    dsn = f"postgresql://u:p%40ss@{host}/jobs?sslmode=require"
    assert database.check_dsn(dsn) == dsn


def test_a_pod_s_environment_is_read() -> None:
    settings = Settings.from_env(
        {
            "PGQRS_DSN": "postgresql://db/jobs",
            "PGQRS_QUEUE": "emails",
            "PGQRS_HOSTNAME": "web-1.shop",
            "PGQRS_POD_UID": "u-1",
            "PGQRS_POD_NAME": "web-1",
            "PGQRS_POD_NAMESPACE": "shop",
            "PGQRS_CONTAINER": "app",
            "PGQRS_SIDECAR": "127.0.0.1:9191",
            "PGQRS_SIDECAR_TOKEN": "t",
        }
    )
    assert settings.pod == pgqrs.PodIdentity(uid="u-1", name="web-1", namespace="shop", container="app")
    assert settings.sidecar is not None
    assert (settings.sidecar.host, settings.sidecar.port, settings.sidecar.token) == ("127.0.0.1", 9191, "t")
    assert (settings.hostname, settings.queue, settings.schema) == ("web-1.shop", "emails", "public")


def test_the_environment_may_set_the_limit_of_payloads() -> None:
    assert Settings.from_env({}).max_payload_bytes == 1024 * 1024
    assert Settings.from_env({"PGQRS_MAX_PAYLOAD_BYTES": "5000"}).max_payload_bytes == 5000


@pytest.mark.parametrize("text", ["0", "-1", "1MiB", "1.5", "٣", " 5", "9" * 50])
def test_a_malformed_limit_of_payloads_is_refused_by_name(text: str) -> None:
    with pytest.raises(pgqrs.ConfigurationError, match="PGQRS_MAX_PAYLOAD_BYTES"):
        Settings.from_env({"PGQRS_MAX_PAYLOAD_BYTES": text})


def test_a_flag_of_the_environment_is_true_or_false_and_else_refused_by_name() -> None:
    assert not Settings.from_env({}).start_without_database
    assert Settings.from_env({"PGQRS_START_WITHOUT_DATABASE": "true"}).start_without_database
    with pytest.raises(pgqrs.ConfigurationError, match="PGQRS_START_WITHOUT_DATABASE"):
        Settings.from_env({"PGQRS_START_WITHOUT_DATABASE": "yes"})


@pytest.mark.parametrize("address", ["9191", ":9191", "host:", "host:port"])
def test_a_malformed_sidecar_address_is_refused_by_name(address: str) -> None:
    with pytest.raises(pgqrs.ConfigurationError, match="PGQRS_SIDECAR"):
        Settings.from_env({"PGQRS_SIDECAR": address})


async def test_messages_of_the_protocol_survive_the_line() -> None:
    reader = asyncio.StreamReader(limit=protocol.MAX_LINE)
    reader.feed_data(protocol.encode(protocol.HELLO, worker_id=None, queue="ü\n") + b'{"type":"ping"}')
    reader.feed_eof()
    assert await protocol.receive(reader) == {"type": "hello", "worker_id": None, "queue": "ü\n"}
    assert await protocol.receive(reader) is None, "a line that was cut off is no message"


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"type":1}\n', b"x" * (protocol.MAX_LINE + 1)])
async def test_anything_else_is_refused(line: bytes) -> None:
    reader = asyncio.StreamReader(limit=protocol.MAX_LINE)
    reader.feed_data(line)
    with pytest.raises(pgqrs.SessionError):
        await protocol.receive(reader)


def test_every_public_name_is_there_and_documented() -> None:
    assert list(pgqrs.__all__) == sorted(pgqrs.__all__)
    for name in pgqrs.__all__:
        assert getattr(pgqrs, name).__doc__, name


def test_every_error_is_in_the_tree_that_the_module_shows() -> None:
    shown = set(re.findall(r"\w+Error\b", pgqrs.errors.__doc__ or "")) - {"ValueError"}
    defined = {name for name in vars(pgqrs.errors) if name.endswith("Error")}
    assert shown == defined


def test_sql_stands_in_its_own_folder_only() -> None:
    verbs = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE TABLE)\b")
    packages = ("pgqrs", "injection", "operator", "sidecar")
    sources = [path for package in packages for path in _ROOT.glob(f"{package}/**/*.py")]
    assert len(sources) > 20
    assert [str(path) for path in sources if verbs.search(path.read_text())] == []
