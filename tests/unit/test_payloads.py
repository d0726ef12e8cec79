"""What a message may carry: what is taken as it is, and how everything else is refused."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgqrs
from pgqrs import arguments, payloads

_CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(_CHARACTERS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(_CHARACTERS), inner),
)


@given(_JSON)
def test_whatever_json_can_say_is_taken(value: Any) -> None:
    assert json.loads(payloads.encode(value)) == value


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "C:\\u0000", '"\\u0000"'])
def test_a_backslash_and_u0000_in_a_text_are_no_zero_character(text: str) -> None:
    assert json.loads(payloads.encode({text: text})) == {text: text}


@pytest.mark.parametrize("value", ["\0", "\\\0", ["a\0b"], {"\0": 1}, {"a": {"b": "\0"}}])
def test_the_zero_character_is_refused_wherever_it_is(value: object) -> None:
    with pytest.raises(pgqrs.ValidationError, match=r"The payload holds the character U\+0000"):
        payloads.encode(value)


def _circular() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def _deep() -> list[object]:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), object(), b"bytes", {1, 2}, {(1, 2): 3}, timedelta(1), _circular(), _deep()]
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(pgqrs.ValidationError, match=r"^The payload cannot be written as JSON"):
        payloads.encode(value)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(pgqrs.ValidationError, match="surrogate"):
        payloads.encode("\ud800")


def test_the_limit_is_the_number_of_bytes_and_is_inclusive() -> None:
    assert payloads.encode("ü" * 4, limit=10)
    with pytest.raises(pgqrs.ValidationError, match=r"Payload 7 takes 12 bytes as JSON, the limit is 10;"):
        payloads.encode("ü" * 5, what="Payload 7", limit=10)
    assert len(payloads.encode("x" * (payloads.DEFAULT_MAX_PAYLOAD_BYTES - 2))) == 1024 * 1024


def test_any_object_with_dumps_and_loads_is_a_codec() -> None:
    class Bytes:
        def dumps(self, value: object, /) -> bytes:
            return json.dumps(str(value)).encode()

        def loads(self, text: str, /) -> object:
            return json.loads(text)

    assert payloads.encode(timedelta(1), Bytes()) == '"1 day, 0:00:00"'
    assert payloads.encode([1], json) == "[1]"


@pytest.mark.parametrize("value", ["a=b", [("a", "b")], {1: "a"}, {"a": object()}, {"a": "\0"}, {"a": "x" * 70_000}])
def test_headers_are_a_mapping_of_texts(value: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="headers"):
        payloads.headers(value)


@pytest.mark.parametrize("value", ["", "x" * 513, "a\0b", "\ud800", 7, b"x"])
def test_a_key_is_a_text_that_can_be_stored(value: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="1 to 512 characters"):
        payloads.key(value)


@pytest.mark.parametrize("value", ["", " \n", "a\0b", None, 7])
def test_a_reason_says_something(value: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="reason"):
        payloads.reason(value)
    assert payloads.reason("x" * 10_000) == "x" * payloads.MAX_REASON_LENGTH


@pytest.mark.parametrize("value", [5, 1.5, "5s", None, timedelta(microseconds=-1)])
def test_durations_are_timedeltas_and_never_negative(value: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="The delay"):
        arguments.seconds("delay", value)
    with pytest.raises(pgqrs.ValidationError, match="more than zero"):
        arguments.seconds("lease", timedelta(), positive=True)
    assert arguments.seconds("delay", timedelta()) == 0


@pytest.mark.parametrize("value", ["1", 1.0, True, None, 0, -1, 2**63])
def test_ids_are_whole_numbers_that_the_database_could_have_given(value: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="no id of a message"):
        arguments.ids([1, value])


@pytest.mark.parametrize("value", [0, -1, 10_001, "5", 1.0, True])
def test_a_limit_is_a_whole_number_in_its_range(value: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="1 to 10,000"):
        arguments.batch_size(value)
