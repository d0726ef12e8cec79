"""Which rows of unmodified apps are the pod's: names tell, where nobody else can have made them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from tests.sidecar.processes import HOSTNAME, Pod
from tests.sidecar.unmodified import adopted, beaten, insert

if TYPE_CHECKING:
    from tests.sidecar.conftest import Observer


async def test_rows_that_another_pod_of_this_name_may_have_made_are_left_alone(pod: Pod, database: Observer) -> None:
    (other,) = await database.fetch(
        "INSERT INTO pgqrs_workers (name, pod_uid, pod_name, pod_namespace) "
        "VALUES ('web-1.bank:1', 'x', 'web-1', 'bank') RETURNING id"
    )
    sidecar = await pod.sidecar()
    doubtful = [await insert(database, name) for name in ("web-1", "web-1:1", f"web-1-{uuid.uuid4()}")]
    certain = await insert(database, f"{HOSTNAME}:7")
    await adopted(database, certain)
    await beaten(database, certain)
    assert [(await database.row(one))["pod_uid"] for one in doubtful] == [None] * 3
    about = [line["worker_ids"] for line in sidecar.lines if line["message"].startswith("rows are left alone")]
    assert about[-1] == doubtful
    assert len(about) == len({tuple(ids) for ids in about}), "said again and again"

    # As soon as nobody else can have made them they are known.
    await database.fetch("UPDATE pgqrs_workers SET status = 'stopped' WHERE id = $1", other["id"])
    for one in doubtful:
        await adopted(database, one)


async def test_a_name_without_the_cluster_may_be_another_cluster_s(pod: Pod, database: Observer) -> None:
    pod.env |= {"PGQRS_CLUSTER": "west", "PGQRS_HOSTNAME": f"{HOSTNAME}.west"}
    other = (
        "INSERT INTO pgqrs_workers (name, pod_uid, pod_name, pod_namespace, cluster) VALUES ($1, $1, 'web-1', $2, $3)"
    )
    await database.fetch(other, "a", "bank", "west")
    await pod.sidecar()
    await adopted(database, await insert(database, HOSTNAME))
    await database.fetch(other, "b", "shop", "east")
    doubtful = await insert(database, HOSTNAME)
    await adopted(database, await insert(database, f"{HOSTNAME}.west"))
    assert (await database.row(doubtful))["pod_uid"] is None


async def test_what_is_not_the_pod_s_is_left_alone(pod: Pod, database: Observer) -> None:
    old = [await insert(database, name) for name in ("web-1:5", f"web-1-{uuid.uuid4()}")]
    await pod.sidecar()
    names = [
        "web-10:1", "web-1-2:1", f"web-1-2-{uuid.uuid4()}", "web-1-cafe", f"web-1-{uuid.uuid1()}", f"{HOSTNAME}.east:1",
        f"WEB-1-{uuid.uuid4()}", "__ephemeral__" + str(uuid.uuid4()),
    ]  # fmt: skip
    strangers = [await insert(database, name) for name in names]
    stopped = await insert(database, "web-1:6")
    await database.fetch("UPDATE pgqrs_workers SET status = 'stopped' WHERE id = $1", stopped)
    await adopted(database, await insert(database, "web-1:7"))
    assert {(await database.row(one))["pod_uid"] for one in [*old, *strangers, stopped]} == {None}


async def test_who_comes_back_under_a_stopped_worker_s_name_is_found_by_its_time(pod: Pod, database: Observer) -> None:
    """Upstream's client takes such a row again, with its id, which is older than the pod."""
    worker_id = await insert(database, "web-1")
    await database.fetch("UPDATE pgqrs_workers SET status = 'stopped' WHERE id = $1", worker_id)
    await pod.sidecar()
    await database.fetch(
        "UPDATE pgqrs_workers SET status = 'ready', started_at = now(), heartbeat_at = now() WHERE id = $1", worker_id
    )
    await adopted(database, worker_id)


async def test_an_app_that_crashed_registers_again_under_its_name(pod: Pod, database: Observer) -> None:
    """Upstream's client refuses a name whose holder lives, and the sidecar does not see that this one is dead."""
    await pod.sidecar()
    first = await insert(database, "web-1:1")
    await adopted(database, first)
    second = await insert(database, "web-1:1")
    await adopted(database, second)
    row = await database.row(second)
    assert (row["name"], row["hostname"], row["port"]) == (f"web-1:1#{second}", "web-1", 1)
