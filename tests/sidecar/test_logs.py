"""Log lines: no secret in any spelling, and names that people search for stay whole."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgqrs_sidecar import logs
from pgqrs_sidecar.settings import Settings
from tests.sidecar.processes import TOKEN, Pod

#: What an environment variable can hold, so no NUL.
_PASSWORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


def _settings(dsn: str) -> Settings:
    return Settings.from_env(Pod(dsn).environment)


def _line(settings: Settings, message: str, *args: object, logger: str = "asyncio", **fields: object) -> dict[str, Any]:
    record = logging.LogRecord(logger, logging.ERROR, "file.py", 1, message, args, None)
    if sys.exc_info()[0] is not None:
        record.exc_info = sys.exc_info()
    record.__dict__.update(fields)
    found: dict[str, Any] = json.loads(logs.formatter(settings).format(record))
    return found


def _texts(value: Any) -> str:
    """All texts of a line that may come from anywhere."""
    match value:
        case dict():
            kept = {"time", "level", "logger", "pod", "queue"}
            return "\0".join(_texts(item) for name, item in value.items() if name not in kept)
        case list():
            return "\0".join(map(_texts, value))
        case _:
            return str(value).replace("[redacted]", "\0")


@given(_PASSWORDS, st.sampled_from(["of the user", "after the question mark"]))
@example("p\"a'ss\\wörd\n", "of the user")
@example("p\"a'ss\\wörd\n", "after the question mark")
@example("a b+c%41", "after the question mark")
@example("re", "of the user")
def test_a_password_is_in_no_line(password: str, place: str) -> None:
    if place == "of the user":
        dsn = f"postgresql://u:{quote(password, safe='')}@db/app"
    else:
        dsn = f"postgresql://u@db/app?sslmode=disable&password={quote_plus(password)}"
    settings = _settings(dsn)
    try:
        message = f"cannot log in with {password}"
        raise ValueError(message)
    except ValueError as error:
        line = _line(
            settings,
            "%s and %r and %r",
            password,
            password,
            error,
            plain=f"<{password}>",
            shown=f"{[error]!r}",
            address=dsn,
            parts=[password, {"deep": (password, quote(password))}],
            error=error,
        )
    texts = _texts(line)
    for text in (password, repr(password)[1:-1], json.dumps(password)[1:-1]):
        # A letter or two stand in every traceback; that all of them are replaced there too shows nothing more.
        assert text not in texts


@pytest.mark.parametrize("password", ["sidecar", "e", "pgqrs", "shop", "emails", "ERROR", "redacted"])
def test_a_password_that_is_a_common_word_eats_no_names(password: str) -> None:
    settings = _settings(f"postgresql://u:{password}@db/app")
    line = _line(settings, "sidecar listens", logger="pgqrs_sidecar.agent", answer=f"of {password}.")
    assert (line["logger"], line["level"], line["message"]) == ("pgqrs_sidecar.agent", "ERROR", "sidecar listens")
    assert (line["pod"], line["queue"]) == ("shop/web-1", "emails")
    assert password not in line["answer"].replace("[redacted]", "")


def test_the_token_and_a_password_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "canary-env")
    settings = _settings("postgresql://u@db/app?sslpassword=canary-key")
    line = _line(settings, f"GET /drain?token={TOKEN}", first="canary-env", second="canary-key", number=3, nothing=None)
    assert line["message"] == "GET /drain?token=[redacted]"
    assert (line["first"], line["second"]) == ("[redacted]", "[redacted]")
    assert (line["number"], line["nothing"]) == (3, None)
