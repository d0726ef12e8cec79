"""The environment: a wrong value is refused by name, and never with the secret in it."""

from __future__ import annotations

import pytest

from pgqrs.errors import ConfigurationError
from pgqrs_sidecar.settings import Settings
from tests.sidecar.processes import Pod, Process

_GOOD = {
    name: value
    for name, value in Pod("postgresql://u:canary-Pa55word@db/app").environment.items()
    if name not in {"PGQRS_DRAIN_SECONDS", "PGQRS_HEARTBEAT_SECONDS", "PGQRS_REJOIN_SECONDS"}
}


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings.from_env(_GOOD)
    assert (settings.times.drain, settings.times.heartbeat, settings.times.rejoin) == (25.0, 5.0, 10.0)
    assert (settings.schema, settings.pod.name, settings.pod.container) == ("public", "web-1", None)
    assert (settings.connection_mode, settings.start_without_database) == ("persistent", False)
    assert (settings.times.start, settings.log_level) == (10.0, "INFO")
    assert "canary" not in repr(settings)


def test_words_are_read_in_any_case() -> None:
    settings = Settings.from_env(
        {
            **_GOOD,
            "PGQRS_CONNECTION_MODE": "shortlived",
            "PGQRS_START_WITHOUT_DATABASE": "True",
            "PGQRS_LOG_LEVEL": "debug",
        }
    )
    assert (settings.connection_mode, settings.start_without_database) == ("shortLived", True)
    assert settings.log_level == "DEBUG"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGQRS_DSN", ""),
        ("PGQRS_DSN", "mysql://u:canary-Pa55word@db"),
        ("PGQRS_QUEUE", ""),
        ("PGQRS_QUEUE", " blank"),
        ("PGQRS_SCHEMA", "drop table"),
        ("PGQRS_HOSTNAME", "a#b"),
        ("PGQRS_POD_UID", ""),
        ("PGQRS_SIDECAR_TOKEN", ""),
        ("PGQRS_SIDECAR_HTTP_PORT", "65536"),
        ("PGQRS_SIDECAR_SESSION_PORT", "²"),
        ("PGQRS_DRAIN_SECONDS", "soon"),
        ("PGQRS_DRAIN_SECONDS", "-1"),
        ("PGQRS_HEARTBEAT_SECONDS", "nan"),
        ("PGQRS_HEARTBEAT_SECONDS", "inf"),
        ("PGQRS_HEARTBEAT_SECONDS", "0"),
        ("PGQRS_PONG_SECONDS", "0.1"),
        ("PGQRS_MAX_SESSIONS", "0"),
        ("PGQRS_LOG_LEVEL", "loud"),
        ("PGQRS_CONNECTION_MODE", "short"),
        ("PGQRS_START_WITHOUT_DATABASE", "yes"),
        ("PGQRS_START_SECONDS", "soon"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as refused:
        Settings.from_env({**_GOOD, name: value})
    assert "canary" not in str(refused.value)


async def test_the_program_ends_with_2_and_says_why() -> None:
    process = await Process.start("pgqrs_sidecar", env={**_GOOD, "PGQRS_DRAIN_SECONDS": "soon"})
    assert await process.ended() == 2
    line = await process.line(level="CRITICAL")
    assert "PGQRS_DRAIN_SECONDS is 'soon'" in line["error"]


async def test_a_malformed_address_ends_the_program_with_2() -> None:
    process = await Process.start(
        "pgqrs_sidecar", env={**_GOOD, "PGQRS_DSN": "postgresql://u:canary-Pa55word@db:port/app"}
    )
    assert await process.ended() == 2
    assert "canary-Pa55word" not in process.output


async def test_a_port_that_is_taken_ends_the_program_with_1(pod: Pod) -> None:
    await pod.sidecar()
    process = await Process.start("pgqrs_sidecar", env=pod.environment)
    assert await process.ended() == 1
    await process.line(message="a port cannot be opened")
