"""No password leaves the process: not in a log line, an Event, a status, a metric or an answer, whatever goes wrong."""

from __future__ import annotations

import base64
import io
import json
import logging
from functools import partial
from typing import TYPE_CHECKING

import pytest
from pythonjsonlogger.json import JsonFormatter

from tests.support.postgres import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pgqrs
    from tests.operator.api_server import ApiServer
    from tests.operator.conftest import Cluster

CANARY = "canary-s3cret"
#: What people write into Secrets, and the reason that the queue then shows.
ADDRESSES = {
    "wrong": (f"postgresql://postgres:{CANARY}@HOST/postgres", "DatabaseRefused"),
    "gone": (f"postgresql://postgres:{PASSWORD}@HOST/no_such_database", "DatabaseNotFound"),
    "away": (f"postgresql://u:{CANARY}@127.0.0.1:1/app", "DatabaseUnavailable"),
    "in-the-query": (f"postgresql://u@127.0.0.1:1/app?password={CANARY}", "DatabaseUnavailable"),
    "unquoted": (f"postgresql://u:{CANARY}/@127.0.0.1:1/app", "InvalidDsn"),
    "other-scheme": (f"mysql://u:{CANARY}@127.0.0.1/app", "InvalidDsn"),
    "words": (f"host=127.0.0.1 password={CANARY}", "InvalidDsn"),
    "bad-port": (f"postgresql://u:{CANARY}@127.0.0.1:{CANARY}/app", "InvalidDsn"),
    "bad-option": (f"postgresql://u:{CANARY}@127.0.0.1:1/app?sslmode={CANARY}", "DatabaseRefused"),
    "bad-file": (f"postgresql://u:{CANARY}@127.0.0.1:1/app?sslrootcert=/nowhere.pem", "DatabaseRefused"),
}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """All that anything logs, with every extra field and every trace, before our own redaction."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter("%(name)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(before)


def _says(server: ApiServer, name: str, reason: str) -> bool:
    return server.reason("PgqrsQueue", name, namespace=name) == reason


def _told(server: ApiServer) -> str:
    """All objects but the Secrets, and all Events, as anybody may read them."""
    objects = [body for (plural, _, _), body in server.objects.items() if plural != "secrets"]
    return json.dumps([objects, server.events])


async def test_no_password_is_ever_told(cluster: Cluster, dsn: str, admin: pgqrs.Admin, lines: io.StringIO) -> None:
    server = cluster.server
    host = dsn.partition("@")[2].partition("/")[0]
    server.put_secret(dsn)
    server.put("PgqrsQueue", "good")
    for name, (address, _) in ADDRESSES.items():
        server.put_secret(address.replace("HOST", host), namespace=name)
        server.put("PgqrsQueue", name, namespace=name)
    async with admin.database.transaction() as transaction:
        # One row that PostgreSQL refuses, with an error that quotes it.
        await transaction.execute("ALTER TABLE pgqrs_queues ADD CONSTRAINT no_bad CHECK (queue_name <> 'bad')")
    server.put("PgqrsQueue", "bad")
    async with cluster.operator():
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "good") == "InSync")
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "bad") == "DatabaseRefused")
        for name, (_, reason) in ADDRESSES.items():
            await cluster.eventually(partial(_says, server, name, reason))
        # A database that goes away under a loop, and a Secret that is rotated to a wrong one.
        server.put_secret(dsn.replace(PASSWORD, CANARY))
        await cluster.eventually(lambda: server.reason("PgqrsQueue", "good") == "DatabaseRefused")
        text = cluster.metrics.text().decode()
        told = [backlog.counts for _, backlog in cluster.metrics.backlogs]
    assert "pgqrs_operator_database_failures_total" in text
    assert 'database="127.0.0.1:1/app"' in text
    log = lines.getvalue()
    assert "verdict" in log
    # Nor as a Secret has it.
    encoded = [base64.b64encode(address.replace("HOST", host).encode()).decode() for address, _ in ADDRESSES.values()]
    for password in (PASSWORD, CANARY, *encoded):
        for where, what in (("log", log), ("objects", _told(server)), ("metrics", text), ("numbers", repr(told))):
            assert password not in what, where
