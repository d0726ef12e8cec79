"""The two kinds: what their schemas say to people, and what they let nobody do."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from pgqrs import duration
from pgqrs.backoff import Backoff
from pgqrs.models import QueuePolicy, QueueRetention
from pgqrs_operator import declarations
from pgqrs_operator.resources.queue import Deduplication, InvalidSpecError, QueueSpec, Retention, Retry
from pgqrs_operator.resources.worker import QueueRef, WorkerSpec
from pgqrs_operator.store import read_queue
from tests.support.resources import (
    DEFINITIONS,
    DURATIONS,
    HOSTILE,
    NAMES,
    SCHEMAS,
    SETTINGS,
    STRINGS,
    fields,
    judged,
    with_value,
)

FIELDS = [
    pytest.param(kind, path, field, id=f"{kind}.{'.'.join(path)}")
    for kind, schema in SCHEMAS.items()
    for part in ("spec", "status")
    for path, field in fields(schema["properties"][part], (part,))
]

# -- what people read


@pytest.mark.parametrize(("kind", "path", "field"), FIELDS)
def test_each_field_says_what_it_is_about(kind: str, path: tuple[str, ...], field: dict[str, Any]) -> None:
    text = field.get("description", "")
    assert re.fullmatch(r"[A-Z].*\.", text, re.DOTALL), f"{kind}.{'.'.join(path)}: {text!r}"
    if path[-1] in {"firstDelay", "maxDelay", "leaseDuration", "heartbeatTimeout", "drainTimeout", "window"}:
        assert re.search(r"\d+[smhd] to \d+[smhd]", text), "what is allowed"
        assert "default" in field


@pytest.mark.parametrize("kind", SCHEMAS)
def test_each_column_shows_a_field_of_its_type(kind: str) -> None:
    columns = DEFINITIONS[kind]["additionalPrinterColumns"]
    known = dict(fields(SCHEMAS[kind]))
    for column in columns:
        where = column["jsonPath"].lstrip(".")
        if where.startswith("status.conditions[?("):
            assert re.fullmatch(r'status\.conditions\[\?\(@\.type=="Ready"\)\]\.(status|reason|message)', where)
        elif where != "metadata.creationTimestamp":
            field = known[tuple(where.split("."))]
            moment = field.get("format") == "date-time"
            assert column["type"] == ("date" if moment else field["type"]), column
    names = [column["name"] for column in columns]
    assert {
        "PgqrsQueue": ["Depth", "Oldest", "Leased", "Dead", "Workers"],
        "PgqrsWorker": ["Heartbeat", "Leased", "Pod"],
    }[kind] == [name for name in names if name not in {"Queue", "State", "Ready", "Reason", "Message", "Age"}]
    assert names[-2:] == ["Message", "Age"]


# -- what they mean


def queue_body(**spec: Any) -> dict[str, Any]:
    return {"kind": "PgqrsQueue", "metadata": {"name": "emails", "namespace": "shop", "uid": "u1"}, "spec": spec}


def test_what_is_not_declared_is_what_the_library_takes() -> None:
    assert QueueSpec().policy() == QueuePolicy()
    assert QueueSpec().kept() is None
    assert declarations.queue(read_queue(queue_body()), SETTINGS).adopts


def test_every_field_of_the_policy_comes_from_the_specification() -> None:
    desired = declarations.queue(
        read_queue(
            queue_body(
                queueName="mails",
                paused=True,
                leaseDuration="1h30m",
                maxReads=7,
                maxDeaths=4,
                heartbeatTimeout="2m",
                retry={"firstDelay": "10s", "factor": 2, "maxDelay": "1d"},
                deduplication={"window": "5m"},
                retention={"archivedMessages": "7d", "deadLetters": "90d", "stoppedWorkers": "30d"},
                adopt="Never",
                deletionPolicy="Delete",
            )
        ),
        SETTINGS,
    )
    assert desired.policy == QueuePolicy(
        paused=True,
        lease_duration=timedelta(minutes=90),
        read_limit=7,
        death_limit=4,
        heartbeat_timeout=timedelta(minutes=2),
        deduplication_window=timedelta(minutes=5),
        backoff=Backoff(first=timedelta(seconds=10), factor=2, most=timedelta(days=1)),
    )
    assert desired.retention == QueueRetention(
        archived=timedelta(days=7), dead=timedelta(days=90), workers=timedelta(days=30)
    )
    assert (desired.name, desired.adopts, desired.delete_data, desired.problem) == ("mails", False, True, "")


def _queue_with(**changes: Any) -> Any:
    spec = QueueSpec(**changes)
    return spec.policy(), spec.kept()


@pytest.mark.parametrize(
    ("read", "low", "high"),
    [
        pytest.param(lambda text: _queue_with(lease_duration=text), "1s", "12h", id="leaseDuration"),
        pytest.param(lambda text: _queue_with(heartbeat_timeout=text), "15s", "24h", id="heartbeatTimeout"),
        pytest.param(lambda text: _queue_with(retry=Retry(first_delay=text)), "0s", "30d", id="firstDelay"),
        pytest.param(lambda text: _queue_with(retry=Retry(max_delay=text)), "0s", "30d", id="maxDelay"),
        pytest.param(
            lambda text: _queue_with(deduplication=Deduplication(window=text)), "0s", "30d", id="deduplication.window"
        ),
        pytest.param(
            lambda text: _queue_with(retention=Retention(archived_messages=text)), "0s", "36500d", id="archivedMessages"
        ),
        pytest.param(
            lambda text: _queue_with(retention=Retention(dead_letters=text)), "0s", "36500d", id="deadLetters"
        ),
        pytest.param(
            lambda text: _queue_with(retention=Retention(stopped_workers=text)), "0s", "36500d", id="stoppedWorkers"
        ),
        pytest.param(
            lambda text: WorkerSpec(queue_ref=QueueRef(name="emails"), drain_timeout=text).drain_limit(),
            "0s",
            "24h",
            id="drainTimeout",
        ),
    ],
)
def test_a_duration_is_within_its_range(read: Any, low: str, high: str, request: pytest.FixtureRequest) -> None:
    read(low)
    read(high)
    second = timedelta(seconds=1)
    beyond = [duration.render(duration.parse(high) + second), "9" * 20 + "d"]
    if low != "0s":
        beyond.append(duration.render(duration.parse(low) - second / 1000))
    for text in beyond:
        with pytest.raises(InvalidSpecError, match=request.node.callspec.id) as refusal:
            read(text)
        assert len(str(refusal.value)) < 200


def test_a_duration_out_of_its_range_is_named_before_it_is_needed() -> None:
    assert len(DURATIONS) == 9
    for kind, path in DURATIONS:
        problem, _ = judged(with_value(kind, path, "9999999d"))
        assert problem.startswith(f"spec.{'.'.join(path)} is 9999999d; allowed are ")


def test_one_field_that_is_refused_makes_no_other_one_another() -> None:
    wrong = queue_body(
        queueName="mails",
        connection={"secretRef": {"name": "other"}, "schema": "jobs"},
        maxReads=0,
        deletionPolicy="Delete",
    )
    resource = read_queue(wrong)
    assert resource.problem.startswith("spec.maxReads")
    assert (resource.queue_name, resource.spec.connection.secret_ref.name) == ("mails", "other")
    assert (resource.spec.connection.schema_, resource.spec.deletion_policy) == ("jobs", "Delete")
    assert declarations.queue(resource, SETTINGS).policy is None


# -- hostile values


def test_the_fields_that_take_text_are_known() -> None:
    assert len(STRINGS) == 18
    assert set(STRINGS) >= NAMES


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
@pytest.mark.parametrize(("kind", "path"), [pytest.param(*one, id=f"{one[0]}.{'.'.join(one[1])}") for one in STRINGS])
def test_a_hostile_value_does_nothing_but_be_refused(kind: str, path: tuple[str, ...], value: str) -> None:
    problem, name = judged(with_value(kind, path, value))
    if (kind, path) not in NAMES:
        # A key of a Secret is looked up in what was read, and is part of no path.
        assert problem or (path[-1] == "key" and re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", value))
    elif problem:
        assert name in {"emails", None}, "it leads nowhere"
    else:
        # A parameter of statements, never a part of one; and nothing that hides what it is from people.
        assert name == (value if kind == "PgqrsQueue" else f"{value}:7")
        assert value.isprintable()
        assert value == value.strip()
        assert 0 < len(value) <= 255
    assert len(problem) < 400
    assert "secret@" not in problem


@pytest.mark.parametrize("name", ["a", "A b", "ärger", "注文", "a'b", 'a"b', "x" * 255, "a  b"])
def test_a_queue_may_have_any_name_that_people_can_read(name: str) -> None:
    assert judged(with_value("PgqrsQueue", ("queueName",), name)) == ("", name)


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_hostile_values_of_another_type_are_refused_too(value: str) -> None:
    for spec in (
        {"maxReads": value},
        {"maxDeaths": value},
        {"paused": value},
        {"retry": value},
        {"deduplication": value},
        {"connection": value},
        {"retry": {"factor": value}},
    ):
        with pytest.raises(ValidationError):
            QueueSpec.model_validate(spec)
