"""Two clusters without a name on one database: each takes what the other declares for drift, and both say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgqrs_operator.settings import Settings
from tests.operator.conftest import a_cluster

if TYPE_CHECKING:
    import pgqrs
    from tests.operator.conftest import Cluster

_DRIFT = "pgqrs_operator_drift_repairs_total", {"kind": "queue_changed"}
_ADOPTED = "pgqrs_operator_queue_writes_total", {"cause": "Adopted"}


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each operator look at the rows several times a second."""
    monkeypatch.setattr("pgqrs_operator.pace.IDLE_SECONDS", 0.2)
    monkeypatch.setattr("pgqrs_operator.pace._IDLE_SHARE", 1.0)


# The same resource in both; and two of other names that want one queue: to each operator the other seems to be gone.
@pytest.mark.parametrize(
    ("names", "repairs"), [(("emails", "emails"), _DRIFT), (("mails", "letters"), _ADOPTED)], ids=["same", "other"]
)
@pytest.mark.usefixtures("_hasty")
async def test_two_clusters_that_declare_one_queue_say_that_it_is_contested(
    cluster: Cluster, dsn: str, admin: pgqrs.Admin, names: tuple[str, str], repairs: tuple[str, dict[str, str]]
) -> None:
    assert admin.database.dsn == dsn

    def repaired(one: Cluster) -> float:
        return one.metrics.registry.get_sample_value(*repairs) or 0.0

    async with a_cluster() as other:
        both = list(zip((cluster, other), names, strict=True))
        for reads, (one, name) in enumerate(both, 5):
            one.server.put_secret(dsn)
            one.server.put("PgqrsQueue", name, spec={"queueName": "emails", "maxReads": reads})
        async with cluster.operator(), other.operator():
            for one, _ in both:
                await one.eventually(lambda one=one: "Contested" in one.server.reasons())  # type: ignore[misc]
            events = [one.server.reasons() for one, _ in both]
            before = [repaired(one) for one, _ in both]
            for number, (one, _) in enumerate(both):
                await one.eventually(lambda one=one, number=number: repaired(one) >= before[number] + 3)  # type: ignore[misc]
            # Nothing is said of each further time, however long it goes on.
            assert [one.server.reasons() for one, _ in both] == events
            for one, name in both:
                ready, *others = one.server.get("PgqrsQueue", name)["status"]["conditions"]  # type: ignore[index]
                assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "True", "Contested")
                assert "clusterName" in ready["message"]
                assert [condition["status"] for condition in others] == ["False", "False"]
    for one, _ in both:
        assert [event["type"] for event in one.server.events if event["reason"] == "Contested"] == ["Warning"]
        assert one.server.reasons().count("DriftRepaired") <= 3


@pytest.mark.usefixtures("_hasty")
async def test_clusters_with_names_never_contend_for_a_row(cluster: Cluster, dsn: str, admin: pgqrs.Admin) -> None:
    """The second one is in conflict with the first, and says with whom."""
    assert admin.database.dsn == dsn
    async with a_cluster() as other:
        for number, one in enumerate((cluster, other)):
            one.settings = Settings(cluster=f"c{number}")
            one.server.put_secret(dsn)
            one.server.put("PgqrsQueue", "emails", spec={"maxReads": 5 + number})
        async with cluster.operator():
            await cluster.eventually(lambda: cluster.server.reason("PgqrsQueue", "emails") == "InSync")
            async with other.operator():
                await other.eventually(lambda: other.server.reason("PgqrsQueue", "emails") == "Conflict")
                assert cluster.server.reason("PgqrsQueue", "emails") == "InSync"
    assert not {"DriftRepaired", "Contested"} & {*cluster.server.reasons(), *other.server.reasons()}
