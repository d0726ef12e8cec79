"""The API server refuses by the schemas what cannot be meant; the operator says why it refuses the rest."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.declared import QUEUES, WORKERS
from tests.cluster.shop import in_time
from tests.support.resources import DURATIONS, HOSTILE, NAMES, STRINGS, with_value

if TYPE_CHECKING:
    from tests.cluster.direct import Body, Direct
    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)

_PLURALS = {"PgqrsQueue": QUEUES, "PgqrsWorker": WORKERS}
_TRIAL = "?dryRun=All"
_DONE, _MADE, _INVALID = 200, 201, 422
#: The schema takes it for a duration, and no field allows so long a one.
_TOO_LONG = "9999999d"
#: The names of a Secret's keys.
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def _body(kind: str, path: tuple[str, ...], value: str, name: str) -> Body:
    return {**with_value(kind, path, value), "metadata": {"name": name}}


def _value(body: Body, path: tuple[str, ...]) -> str:
    found: Any = body["spec"]
    for part in path:
        found = found[part]
    return str(found)


def _said(api: Direct) -> dict[str, tuple[str, str]]:
    """Give the reason and the message of each resource's Ready."""
    return {
        body["metadata"]["name"]: (condition["reason"], condition["message"])
        for plural in _PLURALS.values()
        for body in api.items(plural)
        for condition in body.get("status", {}).get("conditions", ())
        if condition["type"] == "Ready"
    }


def test_hostile_values_are_refused_or_do_nothing(shop: Shop, api: Direct) -> None:
    shop.ready_queue()
    admitted: list[tuple[str, tuple[str, ...], str]] = []
    wrong: list[str] = []
    for kind, path in STRINGS:
        for value in HOSTILE:
            where = f"spec.{'.'.join(path)}"
            status, answer = api.ask("POST", api.path(_PLURALS[kind]) + _TRIAL, _body(kind, path, value, "trial"))
            if status == _MADE:
                admitted.append((kind, path, _value(answer, path)))
            elif status != _INVALID or where not in answer["message"]:
                wrong.append(f"{kind} {where} {value[:20]!a}: {status} {answer.get('message')}")
    assert wrong == []
    # Few get that far: names that people can read, and keys that a Secret can have.
    names = {key: {value for kind, path, value in admitted if (kind, path) == key} for key in NAMES}
    keys = {value for kind, path, value in admitted if path[-1] == "key"}
    assert all(names.values())
    assert keys
    assert [one for one in admitted if one[:2] not in NAMES and one[1][-1] != "key"] == []

    wanted: dict[str, tuple[str, str]] = {"emails": ("InSync", "")}
    for number, (kind, path, value) in enumerate(admitted):
        name = f"admitted-{number}"
        api.insist("POST", api.path(_PLURALS[kind]), _body(kind, path, value, name))
        if path[-1] == "key":
            assert _KEY.fullmatch(value)
            wanted[name] = ("SecretKeyNotFound", repr(value))
        else:
            wanted[name] = ("InSync", "") if kind == "PgqrsQueue" else ("WaitingForWorker", f"{value}:7")
    for number, (kind, path) in enumerate(DURATIONS):
        name = f"beyond-{number}"
        api.insist("POST", api.path(_PLURALS[kind]), _body(kind, path, _TOO_LONG, name))
        wanted[name] = ("InvalidSpec", f"spec.{'.'.join(path)} is {_TOO_LONG}; allowed are ")

    def missing() -> dict[str, tuple[str, str]]:
        said = _said(api)
        return {
            name: said.get(name, ("", ""))
            for name, (reason, text) in wanted.items()
            if said.get(name, ("", ""))[0] != reason or text not in said[name][1]
        }

    in_time(lambda: not missing(), within=30.0)
    assert missing() == {}
    rows = set(json.loads(shop.query("SELECT json_agg(queue_name) FROM pgqrs_queues")))
    assert rows == {"emails"} | names["PgqrsQueue", ("queueName",)]


def test_what_belongs_together_and_what_cannot_be_changed_is_said(shop: Shop, api: Direct) -> None:
    spec = {"queueRef": {"name": "emails"}, "hostname": "legacy", "port": 7}
    worker = {"apiVersion": "pgqrs.io/v1alpha1", "kind": "PgqrsWorker", "metadata": {"name": "legacy"}, "spec": spec}
    for half in ("hostname", "port"):
        parted = {**worker, "spec": {key: value for key, value in spec.items() if key != half}}
        status, answer = api.ask("POST", api.path(WORKERS) + _TRIAL, parted)
        assert (status, "hostname and port belong together: give both" in answer["message"]) == (_INVALID, True)
    shop.apply(worker)
    shop.declare("emails", queueName="mails")
    shop.declare("letters")

    def changed(plural: str, name: str, **change: object) -> tuple[int, str]:
        status, answer = api.ask("PATCH", api.path(plural, name) + _TRIAL, {"spec": change})
        return status, answer.get("message", "")

    for plural, name, change, text in (
        (QUEUES, "emails", {"queueName": "letters"}, "spec.queueName cannot be changed; delete the resource"),
        (QUEUES, "emails", {"queueName": None}, "spec.queueName cannot be changed; delete the resource"),
        (QUEUES, "letters", {"queueName": "mails"}, "spec.queueName cannot be changed; delete the resource"),
        (WORKERS, "legacy", {"queueRef": {"name": "letters"}}, "queueRef cannot be changed"),
        (WORKERS, "legacy", {"hostname": "other"}, "hostname and port cannot be changed"),
        (WORKERS, "legacy", {"port": 8}, "hostname and port cannot be changed"),
        (WORKERS, "legacy", {"hostname": None, "port": None}, "hostname and port cannot be changed"),
    ):
        status, message = changed(plural, name, **change)
        assert status == _INVALID, (plural, change)
        assert text in message
    # The rules hold back nothing else, nor what says the same in other words.
    assert changed(QUEUES, "letters", queueName="letters", maxReads=9) == (_DONE, "")
    assert changed(WORKERS, "legacy", hostname="legacy", port=7, state="Suspended") == (_DONE, "")
