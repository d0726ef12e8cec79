"""Names that users and rows give never lead a request elsewhere, be it one to the API server or one about a row.

How a path is made of names is in tests/unit/test_operator_paths.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgqrs import fleet, lifecycle, queues
from pgqrs.models import PodIdentity
from pgqrs_operator.api import BadNameError
from pgqrs_operator.declarations import names_a_pod

if TYPE_CHECKING:
    import pgqrs
    from tests.operator.conftest import Cluster

HOSTILE = ("../../victim/secrets/pgqrs", "..", "")


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_name_that_no_object_has_is_asked_of_nobody(cluster: Cluster, name: str) -> None:
    cluster.server.put_secret("postgresql://other", namespace="victim")
    kubernetes = cluster.kubernetes
    for asked in (
        kubernetes.get_secret("shop", name),
        kubernetes.get_secret(name, "pgqrs"),
        kubernetes.get_pod("shop", name),
        kubernetes.list_pod_uids(name),
        kubernetes.count_pods(name, ""),
        kubernetes.patch_status("pgqrsqueues", "shop", name, {}),
        kubernetes.patch_finalizers("pgqrsqueues", "shop", name, version=1, finalizers=[]),
        kubernetes.create("pgqrsqueues", name, {}),
        kubernetes.delete("pgqrsqueues", "shop", name, uid="u"),
        kubernetes.scale("shop", name, 0),
        kubernetes.create_event(name, {}),
    ):
        with pytest.raises(BadNameError):
            await asked
    assert not cluster.server.requests


async def test_every_other_name_arrives_as_it_is(cluster: Cluster) -> None:
    cluster.server.put_secret("postgresql://ours", name="a.b-c")
    assert (await cluster.kubernetes.get_secret("shop", "a.b-c"))["metadata"]["name"] == "a.b-c"


async def test_a_row_that_names_no_pod_as_kubernetes_does_is_not_from_here(admin: pgqrs.Admin) -> None:
    db = admin.database
    await queues.create(db, "emails")
    for number, (name, namespace) in enumerate([("web-1", "shop"), ("web-1", "../.."), ("a/b", "shop")]):
        pod = PodIdentity(uid=f"u{number}", name=name, namespace=namespace)
        await lifecycle.register(db, "emails", hostname=f"h{number}", pod=pod)
    found = await fleet.observe(db, queues=["emails"])
    assert [names_a_pod(row) for row in found.workers] == [True, False, False]


async def test_a_row_never_leads_a_request_elsewhere(
    cluster: Cluster, admin: pgqrs.Admin, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    await queues.create(admin.database, "emails")
    hostile = PodIdentity(uid="u1", name="web-1", namespace="../../api/v1/namespaces/victim", cluster="west")
    await lifecycle.register(admin.database, "emails", hostname="h", pod=hostile)
    cluster.settings = type(cluster.settings)(cluster="west")
    cluster.server.put_secret(dsn)
    cluster.server.put("PgqrsQueue", "emails")
    async with cluster.operator():
        await cluster.eventually(lambda: cluster.server.reason("PgqrsQueue", "emails") == "InSync")
    assert not [path for _, path in cluster.server.requests if "victim" in path]
    assert "cannot be confirmed" not in caplog.text
    (row,) = (await fleet.observe(admin.database, queues=["emails"])).workers
    assert row.info.pod_uid == "u1"
