"""What nobody can mean is refused by every public call, with the argument's name, before anything is changed.

The calls are found by introspection, so that a new one without a case here fails.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import pgqrs
from pgqrs.tables import Messages, Queues, Workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAN, HUGE = float("nan"), 10**5000
WRONG_TYPES = [5, NAN, True, b"x", ["x"], object()]

#: The values that must be refused, and what the error says of each.
NAMES = (
    [*WRONG_TYPES, "", " a", "a\0b", "a\nb", "\ud800", "x" * 256],
    "queue name .* is not allowed.*1 to 255 printable",
)
IDS = (["1", 1.0, NAN, True, None, 0, -1, 2**63, HUGE, b"1", object()], "is no id of a {what}.*whole number from 1")
DURATIONS = (
    [5, NAN, "5s", True, object(), timedelta(microseconds=-1), timedelta.min, timedelta.max, timedelta(days=36_501)],
    "The {what} .*(it is a timedelta|zero or more|more than zero|at most 36,500 days)",
)
FLAGS = ([5, "no", NAN, [], object()], "{what} is .*True or False")
MOMENTS = (
    [5, NAN, "2026-01-01", True, object(), datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))],
    "{what} is .*(it is a datetime|beyond the years)",
)
NUMBERS = (["5", 1.5, NAN, True, None, -1, 2**63, HUGE, object()], "{what} .*is out of range.*whole numbers from")
REASONS = ([5, NAN, True, b"x", "", " \n", "a\0b", "\ud800", object()], "[Tt]he reason .*is not allowed")
PATTERNS = ([*REASONS[0], "x\\", "x" * 4001], "the reason .*is not allowed|The reason .*is not allowed")
KEYS = ([*WRONG_TYPES, "", "a\0b", "\ud800", "x" * 513], "The key .*1 to 512 characters")
HEADERS = (["a=b", 5, NAN, {1: "a"}, {"a": "\0"}, {"a": NAN}, {"a": object()}, {"a": "x" * 70_000}], "headers")
PAYLOADS = ([NAN, object(), b"x", {1, 2}, "a\0b", "\ud800", "x" * (1024 * 1024), HUGE], "[Pp]ayload")
CONNECTIONS = ([5, "x", object()], "connection is")
POLICIES = (
    [
        5,
        "paused",
        pgqrs.QueueRetention(),
        pgqrs.QueuePolicy(paused="no"),  # type: ignore[arg-type]
        pgqrs.QueuePolicy(lease_duration=timedelta(0)),
        pgqrs.QueuePolicy(lease_duration=timedelta.max),
        pgqrs.QueuePolicy(lease_duration=30),  # type: ignore[arg-type]
        pgqrs.QueuePolicy(heartbeat_timeout=timedelta(seconds=1)),
        pgqrs.QueuePolicy(heartbeat_timeout=timedelta.max),
        pgqrs.QueuePolicy(read_limit=0),
        pgqrs.QueuePolicy(read_limit=2**31),
        pgqrs.QueuePolicy(read_limit=2.5),  # type: ignore[arg-type]
        pgqrs.QueuePolicy(read_limit=True),
        pgqrs.QueuePolicy(death_limit=0),
        pgqrs.QueuePolicy(death_limit=2**15),
        pgqrs.QueuePolicy(death_limit=2.5),  # type: ignore[arg-type]
        pgqrs.QueuePolicy(death_limit=True),
        pgqrs.QueuePolicy(deduplication_window=timedelta(microseconds=-1)),
        pgqrs.QueuePolicy(deduplication_window=timedelta(days=36_501)),
        pgqrs.QueuePolicy(deduplication_window=300),  # type: ignore[arg-type]
        pgqrs.QueuePolicy(backoff=5),  # type: ignore[arg-type]
    ],
    "policy|paused|lease_duration|heartbeat_timeout|read_limit|death_limit|deduplication_window|backoff",
)
RETENTIONS = (
    [
        5,
        pgqrs.QueuePolicy(),
        pgqrs.QueueRetention(archived=-timedelta(1)),
        pgqrs.QueueRetention(dead=timedelta.max),
        pgqrs.QueueRetention(workers=7),  # type: ignore[arg-type]
    ],
    "retention",
)
PHASES = ([5, "", "before", NAN, object()], "phase .*pre, post or all")


@dataclass(frozen=True)
class Case:
    """The arguments of a call that is right, and for each argument the values that are refused."""

    right: dict[str, Any]
    wrong: dict[str, tuple[list[Any], str]]


def _about(kind: tuple[list[Any], str], what: str) -> tuple[list[Any], str]:
    return kind[0], kind[1].format(what=what)


def _optional(kind: tuple[list[Any], str]) -> tuple[list[Any], str]:
    return [value for value in kind[0] if value is not None], kind[1]


def _many(kind: tuple[list[Any], str]) -> tuple[list[Any], str]:
    """Lists with one value that is wrong, and what is no list."""
    return [5, None, "1", NAN, *([1, value] for value in kind[0])], f"is no id of a message; give a list|{kind[1]}"


MESSAGE, MESSAGES = _about(IDS, "message"), _many(_about(IDS, "message"))
TIMEOUT, MAX_AGE, OLDER = (
    _about(DURATIONS, "timeout"),
    _about(DURATIONS, "max_age"),
    _about(DURATIONS, "age older_than"),
)
SINCE, BEFORE = _about(MOMENTS, "since"), _about(MOMENTS, "before")
AFTER = _about(NUMBERS, "id in after")
LIMIT = ([*NUMBERS[0], 0, 10_001], "The limit .*1 to 10,000")
FILTERS = {"queue": NAMES, "reason": PATTERNS, "since": SINCE, "before": BEFORE}

VERBS = {
    "drain": Case({"timeout": timedelta()}, {"timeout": TIMEOUT}),
    "is_healthy": Case({"max_age": timedelta(1)}, {"max_age": MAX_AGE}),
}
CASES: dict[type, dict[str, Case]] = {
    pgqrs.Admin: {
        "create_queue": Case({"name": "a"}, {"name": NAMES, "policy": POLICIES, "retention": RETENTIONS}),
        "delete_queue": Case({"name": "emails"}, {"name": NAMES}),
        "delete_worker": Case({"worker_id": 1}, {"worker_id": _about(IDS, "worker")}),
        "get_queue": Case({"name": "emails"}, {"name": NAMES}),
        "install": Case({}, {"phase": PHASES, "timeout": ([*TIMEOUT[0], timedelta(0)], TIMEOUT[1])}),
        "purge_queue": Case({"name": "emails"}, {"name": NAMES, "archive": _about(FLAGS, "archive")}),
        "queue_counts": Case({"name": "emails"}, {"name": NAMES}),
        "reap": Case({}, {"queue": NAMES}),
        "set_policy": Case({"name": "emails", "policy": pgqrs.QueuePolicy()}, {"name": NAMES, "policy": POLICIES}),
        "set_retention": Case(
            {"name": "emails", "retention": pgqrs.QueueRetention()}, {"name": NAMES, "retention": RETENTIONS}
        ),
        "verify": Case({}, {"phase": PHASES}),
    },
    Queues: {},
    Workers: {
        "filter_by_queue": Case({"queue": "emails"}, {"queue": NAMES}),
        "get": Case({"worker_id": 1}, {"worker_id": _about(IDS, "worker")}),
        "health": Case({}, {"queue": NAMES, "max_age": MAX_AGE}),
        "purge": Case({"older_than": timedelta(1)}, {"older_than": ([*OLDER[0], None], OLDER[1]), "queue": NAMES}),
        "purgeable": Case({"older_than": timedelta(1)}, {"older_than": ([*OLDER[0], None], OLDER[1]), "queue": NAMES}),
        "stats": Case({}, {"queue": NAMES}),
    },
    Messages: {
        "dead_letters": Case({"queue": "emails"}, {**FILTERS, "after": AFTER, "limit": LIMIT}),
        "replay": Case({"message_id": 1}, {"message_id": MESSAGE}),
        "replay_many": Case({"message_ids": [1]}, {"message_ids": MESSAGES}),
        "replay_matching": Case({"queue": "emails"}, FILTERS),
    },
    pgqrs.WorkerHandle: VERBS,
    pgqrs.Producer: {
        **VERBS,
        "enqueue": Case(
            {"payload": 1},
            {
                "payload": PAYLOADS,
                "delay": _about(DURATIONS, "delay"),
                "key": KEYS,
                "headers": HEADERS,
                "connection": CONNECTIONS,
            },
        ),
        "enqueue_batch": Case(
            {"payloads": [1]},
            {
                "payloads": ([5, None, "x", {"a": 1}, *([1, value] for value in PAYLOADS[0])], "[Pp]ayload"),
                "delay": _about(DURATIONS, "delay"),
                "keys": (["x", [], ["a", "b"], *([value] for value in KEYS[0])], "keys? "),
                "headers": HEADERS,
                "connection": CONNECTIONS,
            },
        ),
    },
    pgqrs.Consumer: {
        **VERBS,
        "archive": Case({"message_id": 1}, {"message_id": MESSAGE}),
        "archive_many": Case({"message_ids": [1]}, {"message_ids": MESSAGES}),
        "dead_letter": Case({"message_id": 1, "reason": "x"}, {"message_id": MESSAGE, "reason": REASONS}),
        "dead_letter_many": Case({"message_ids": [1], "reason": "x"}, {"message_ids": MESSAGES, "reason": REASONS}),
        "delete": Case({"message_id": 1}, {"message_id": MESSAGE}),
        "delete_many": Case({"message_ids": [1]}, {"message_ids": MESSAGES}),
        "dequeue": Case({}, {"limit": LIMIT, "lease": ([*DURATIONS[0], timedelta(0)], _about(DURATIONS, "lease")[1])}),
        "extend": Case(
            {"message_id": 1, "duration": timedelta(1)},
            {"message_id": MESSAGE, "duration": _about(DURATIONS, "duration")},
        ),
        "extend_many": Case(
            {"message_ids": [1], "duration": timedelta(1)},
            {"message_ids": MESSAGES, "duration": _about(DURATIONS, "duration")},
        ),
        "release": Case({"message_id": 1}, {"message_id": MESSAGE, "delay": _about(DURATIONS, "delay")}),
        "release_many": Case({"message_ids": [1]}, {"message_ids": MESSAGES, "delay": _about(DURATIONS, "delay")}),
    },
}
#: What the sidecar's session calls, not an app; and what takes a function that is not ours to judge.
NOT_FOR_APPS = {"drain_requested", "state_changed"}
#: Arguments that are checked elsewhere: by tests of roles, and by the loop's own.
ELSEWHERE = {("Admin", "install", "role_prefix"), ("Consumer", "run", None)}


def _public_calls() -> dict[tuple[type, str], list[str]]:
    return {
        (kind, name): list(inspect.signature(function).parameters)[1:]
        for kind in CASES
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name not in NOT_FOR_APPS
    }


def test_every_argument_of_every_public_call_has_a_case() -> None:
    found = {
        (kind.__name__, name, parameter)
        for (kind, name), parameters in _public_calls().items()
        if (kind.__name__, name, None) not in ELSEWHERE
        for parameter in parameters
    }
    cases = {
        (kind.__name__, name, parameter)
        for kind, calls in CASES.items()
        for name, case in calls.items()
        for parameter in case.wrong
    }
    assert found - ELSEWHERE == cases


@pytest.fixture
async def targets(admin: pgqrs.Admin) -> AsyncIterator[dict[type, Any]]:
    """One of each kind; worker 1 sends, worker 2 holds message 1, message 2 is dead, message 3 waits."""
    await admin.create_queue("emails")
    async with pgqrs.Producer(admin, "emails") as producer, pgqrs.Consumer(admin, "emails") as consumer:
        await producer.enqueue_batch([1, 2, 3])
        await consumer.dequeue(2)
        await consumer.dead_letter(2, "x")
        yield {
            pgqrs.Admin: admin,
            Queues: await admin.get_queues(),
            Workers: await admin.get_workers(),
            Messages: await admin.get_messages(),
            pgqrs.WorkerHandle: pgqrs.WorkerHandle(admin, consumer.worker_id),
            pgqrs.Producer: producer,
            pgqrs.Consumer: consumer,
        }


async def _everything(dsn: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        # All but the heartbeats, which come by themselves.
        return [
            *await connection.fetch("SELECT * FROM pgqrs_queues ORDER BY id"),
            *await connection.fetch("SELECT * FROM pgqrs_messages ORDER BY id"),
            *await connection.fetch("SELECT id, name, status FROM pgqrs_workers ORDER BY id"),
        ]
    finally:
        await connection.close()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, calls in CASES.items() for name in calls], ids=str)
async def test_what_nobody_can_mean_is_refused_and_changes_nothing(
    targets: dict[type, Any], dsn: str, kind: type, name: str
) -> None:
    case, call = CASES[kind][name], getattr(targets[kind], name)
    before = await _everything(dsn)
    for argument, (values, says) in case.wrong.items():
        assert values
        for value in values:
            with pytest.raises(pgqrs.PgqrsError, match=f"(?s){says}") as refused:
                await call(**{**case.right, argument: value})
            assert isinstance(refused.value, pgqrs.ValidationError), (argument, value)
            assert len(str(refused.value)) < 500, (argument, value)
    assert await _everything(dsn) == before


@pytest.mark.parametrize("value", _about(IDS, "worker")[0], ids=lambda value: type(value).__name__)
def test_a_handle_is_of_an_id(value: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match="is no id of a worker; an id is a whole number from 1 on"):
        pgqrs.WorkerHandle("postgresql://localhost/mydb", value)


@pytest.mark.parametrize("value", [5, NAN, True, b"postgresql://u:secret@db/jobs", ["x"], object()])
def test_a_dsn_is_a_text_and_is_not_shown(value: Any) -> None:
    with pytest.raises(pgqrs.ConfigurationError, match="The DSN is") as refused:
        pgqrs.Admin(value)
    assert "secret" not in str(refused.value)
    with pytest.raises(pgqrs.ConfigurationError, match="The DSN is"):
        pgqrs.WorkerHandle(value, 1)


@pytest.mark.parametrize("kind", [pgqrs.Producer, pgqrs.Consumer])
@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        *(("queue", value, NAMES[1]) for value in NAMES[0] if value != ""),
        *(("host", value, "hostname .*1 to 512 printable") for value in ["a\0b", "a#b", "x" * 513, 5, b"x", NAN]),
        *(("port", value, "port .*whole number from 0") for value in [-1, 2**31, "1", 1.5, NAN, True, HUGE]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_worker_is_not_made_of_what_nobody_can_mean(
    admin: pgqrs.Admin, kind: Any, argument: str, value: Any, says: str
) -> None:
    with pytest.raises(pgqrs.ValidationError, match=says):
        kind(admin, **{"queue": "emails", "host": "here", "port": 1, argument: value})


@pytest.mark.parametrize("value", FLAGS[0], ids=lambda value: type(value).__name__)
async def test_a_worker_replaces_another_only_if_told_so_clearly(admin: pgqrs.Admin, value: Any) -> None:
    await admin.create_queue("emails")
    async with pgqrs.Consumer(admin, "emails", "here", 1) as consumer:
        with pytest.raises(pgqrs.ValidationError, match=r"replace is .*True or False"):
            await pgqrs.Consumer(admin, "emails", "here", 1, replace=value).start()
        assert await consumer.status() == "ready"


@pytest.mark.parametrize("schema", [5, "a b", "x" * 64, 'a"b', b"x"])
def test_a_schema_is_a_plain_identifier(schema: Any) -> None:
    with pytest.raises(pgqrs.ValidationError, match=r"schema name .*at most 63 characters"):
        pgqrs.Admin("postgresql://localhost/mydb", schema)


async def test_what_is_allowed_at_the_edge_works(targets: dict[type, Any]) -> None:
    longest = timedelta(days=36_500)
    consumer, admin = targets[pgqrs.Consumer], targets[pgqrs.Admin]
    assert await consumer.extend(1, longest)
    assert await consumer.release(1, delay=longest)
    (third,) = await consumer.dequeue(10_000, lease=longest)
    assert third.vt > datetime.now(UTC) + timedelta(days=36_000)
    assert await consumer.archive(2**63 - 1) is False
    assert await consumer.is_healthy(longest)
    assert await targets[Workers].purge(longest) == 0
    assert [one.healthy for one in await targets[Workers].health("emails", max_age=longest)] == [True, True]
    earliest, latest = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))  # noqa: DTZ901
    letters = await targets[Messages].dead_letters("emails", since=earliest, before=latest, reason="%\\%")
    assert letters == []
    policy = pgqrs.QueuePolicy(lease_duration=longest, heartbeat_timeout=longest, read_limit=2**31 - 1)
    await admin.set_policy("emails", policy)
    retention = pgqrs.QueueRetention(archived=longest, dead=longest, workers=longest)
    assert (await admin.create_queue("x" * 255, policy, retention=retention)).policy == policy
    await targets[pgqrs.Producer].enqueue("x", delay=timedelta(microseconds=0), key="x" * 512)
    assert len(await consumer.dequeue()) == 1
    assert await admin.reap() == pgqrs.Reaped()


async def test_an_unknown_queue_is_an_error_that_offers_names_that_are_near(targets: dict[type, Any]) -> None:
    for call in (targets[pgqrs.Admin].queue_counts, targets[Workers].filter_by_queue, targets[Workers].stats):
        with pytest.raises(pgqrs.QueueNotFoundError, match=r"no queue 'email'.*Did you mean 'emails'\?"):
            await call("email")
