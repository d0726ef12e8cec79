"""What people and tools that compare see of a resource: columns, explanations, and no change where nothing happens."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.cluster.declared import QUEUES, STEADY, WORKERS, Declared
from tests.cluster.shop import eventually, in_time
from tests.support.installation import EXAMPLE
from tests.support.resources import SCHEMAS, fields

if TYPE_CHECKING:
    from tests.cluster.direct import Body, Direct
    from tests.cluster.shop import Shop

pytestmark = pytest.mark.timeout(300)

#: Longer than it takes until messages and workers are counted again, and until everything is listed again.
_QUIET_SECONDS = 40.0
#: Of a queue with traffic in that time: it is counted every 30 s.
_MOST_VERSIONS = 3
_QUEUE_FILE = str(EXAMPLE / "queue.yaml")
_QUEUE: Body = {
    "apiVersion": "pgqrs.io/v1alpha1",
    "kind": "PgqrsQueue",
    "metadata": {"name": STEADY},
    # Durations in words that the database would not choose.
    "spec": {"leaseDuration": "90s", "heartbeatTimeout": "600s", "retention": {"deadLetters": "48h"}},
}
_WORKER: Body = {
    "apiVersion": "pgqrs.io/v1alpha1",
    "kind": "PgqrsWorker",
    "metadata": {"name": "legacy"},
    "spec": {"queueRef": {"name": STEADY}, "hostname": "legacy", "port": 1, "state": "Ready"},
}
_BOTH = json.dumps({"apiVersion": "v1", "kind": "List", "items": [_QUEUE, _WORKER]})


def _row(shown: str, kind: str, name: str) -> dict[str, str]:
    """Read the line of a resource in what `kubectl get` shows of several kinds, by its columns."""
    for table in shown.split("\n\n"):
        head, *lines = table.splitlines()
        starts = [match.start() for match in re.finditer(r"\S+", head)]
        for line in lines:
            cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
            if cells[0] == f"{kind}.pgqrs.io/{name}":
                return dict(zip(head.split(), cells, strict=True))
    return {}


def test_where_nothing_happens_nothing_changes_and_what_happens_is_shown(shop: Shop, api: Direct) -> None:
    shop.kubectl("apply", "--server-side", "-f", _QUEUE_FILE)
    shop.kubectl("wait", "pgqrsqueue/emails", "--for=condition=Ready", "--timeout=20s")
    # The worker is there first, so that it is in the first count of its queue.
    shop.query(f"INSERT INTO pgqrs_queues (queue_name) VALUES ('{STEADY}')")
    Declared(shop, api).enrol(["legacy"])
    shop.query(
        "INSERT INTO pgqrs_messages (queue_id, payload, vt, read_ct, consumer_worker_id) "
        "SELECT queue_id, '{}', now() + interval '1 hour', 1, id FROM pgqrs_workers"
    )
    shop.kubectl("apply", "--server-side", "-f", "-", stdin=_BOTH)
    shop.reason("InSync", name=STEADY)
    shop.reason("Working", kind="pgqrsworker", name="legacy")
    assert shop.get("pgqrsqueue", STEADY)["status"]["workers"]["ready"] == 1

    def versions() -> list[str]:
        bodies = (api.insist("GET", api.path(*where)) for where in ((QUEUES, STEADY), (WORKERS, "legacy")))
        return [body["metadata"]["resourceVersion"] for body in bodies]

    before, began = versions(), time.monotonic()
    shop.query(
        "INSERT INTO pgqrs_messages (queue_id, payload, vt, archived_at, dead_reason) "
        "SELECT q.id, '{}', d.vt, d.at, d.why FROM pgqrs_queues q, "
        "(VALUES (now(), now(), 'given up'), (now() + interval '1 hour', NULL, NULL)) d (vt, at, why) "
        "WHERE q.queue_name = 'emails'"
    )
    shop.send(3)
    # Each of them fails where there is a difference.
    for how in (("--server-side",), ()):
        assert shop.kubectl("diff", *how, "-f", _QUEUE_FILE) == ""
        assert shop.kubectl("diff", *how, "-f", "-", stdin=_BOTH) == ""
    for kind, schema in SCHEMAS.items():
        explained = shop.kubectl("explain", f"{kind.lower()}.spec", "--recursive")
        for path, _ in fields(schema["properties"]["spec"]):
            assert re.search(rf"^ +{path[-1]}\t<", explained, re.MULTILINE), f"{kind}: {path}"

    def counted() -> str:
        found = shop.kubectl("get", f"{QUEUES},{WORKERS}")
        return found if _row(found, "pgqrsqueue", "emails")["DEPTH"] == "3" else ""

    shown = eventually("the messages are shown", counted, within=_QUIET_SECONDS)
    row = _row(shown, "pgqrsqueue", "emails")
    assert re.fullmatch(r"\d+s", row.pop("OLDEST"))
    assert re.fullmatch(r"\d+s|\dm\d*s?", row.pop("AGE"))
    assert row.pop("MESSAGE")
    assert row == {
        "NAME": "pgqrsqueue.pgqrs.io/emails", "QUEUE": "emails", "READY": "True", "DEPTH": "3", "LEASED": "0",
        "DEAD": "1", "WORKERS": "0", "REASON": "InSync",
    }  # fmt: skip
    assert shop.get("pgqrsqueue", "emails")["status"]["messages"] == {"ready": 3, "delayed": 1, "leased": 0, "dead": 1}
    row = _row(shown, "pgqrsqueue", STEADY)
    assert (row["LEASED"], row["WORKERS"]) == ("1", "1")
    row = _row(shown, "pgqrsworker", "legacy")
    assert re.fullmatch(r"\d+s|\dm\d*s?", row.pop("AGE"))
    assert row == {
        "NAME": "pgqrsworker.pgqrs.io/legacy", "QUEUE": STEADY, "STATE": "Ready", "HEARTBEAT": "Fresh", "LEASED": "1",
        "POD": "", "READY": "True", "MESSAGE": "It works.",
    }  # fmt: skip

    # A change that is taken back is one too: versions never come again.
    busy: set[str] = set()

    def changed() -> bool:
        # What is sent meanwhile is told as often as it is counted, not as often as it is looked at.
        shop.send(1)
        busy.add(api.insist("GET", api.path(QUEUES, "emails"))["metadata"]["resourceVersion"])
        return versions() != before

    in_time(changed, within=began + _QUIET_SECONDS - time.monotonic())
    assert versions() == before
    assert len(busy) <= _MOST_VERSIONS
