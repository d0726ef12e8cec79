"""An installation for one namespace: Roles alone, and nothing of it is seen anywhere else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pgqrs_operator.names import GROUP, QUEUES, WORKERS
from tests.cluster.declared import STEADY, Declared
from tests.cluster.shop import Shop
from tests.support.installation import CHART

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.direct import Direct
    from tests.support.installation import Installation

pytestmark = pytest.mark.timeout(300)

_RELEASE = "single"
_OPERATOR = f"{_RELEASE}-operator"
#: Longer than a silent worker is in this test.
_PATIENT = {"heartbeatTimeout": "10m"}
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
#: What it does in its namespace, and nowhere else: verb, kind, name.
_NEEDED = (
    ("list", QUEUES, ""),
    ("watch", QUEUES, ""),
    ("patch", f"{QUEUES}/status", ""),
    ("create", WORKERS, ""),
    ("list", "pods", ""),
    ("create", "events", ""),
    ("get", "secrets", "pgqrs"),
)
#: What it never needs.
_DENIED = (
    ("get", "secrets", "another"),
    ("list", "secrets", ""),
    ("watch", "secrets", ""),
    ("create", "secrets", ""),
    ("delete", QUEUES, ""),
    ("delete", "pods", ""),
    ("create", "pods", ""),
    ("create", "pods/exec", ""),
    ("get", "configmaps", ""),
)


class _Single:
    """A second release, in a namespace of its own, for one namespace."""

    def __init__(self, installation: Installation, watched: str) -> None:
        self._cluster = installation.cluster
        self.namespace = f"{watched}-system"
        self._values = {
            "watchNamespace": watched,
            "operator": {"replicas": 1},
            "injector": {"enabled": False},
            "crds": {"install": False},
        }

    def install(self) -> None:
        where = ("-n", self.namespace, "--create-namespace", "--wait", "--timeout", "90s", "--values", "-")
        self._cluster.helm("install", _RELEASE, str(CHART), *where, stdin=json.dumps(self._values))

    def uninstall(self) -> None:
        self._cluster.helm("uninstall", _RELEASE, "-n", self.namespace, "--ignore-not-found", "--wait")

    def remove(self) -> None:
        self._cluster.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def logs(self) -> str:
        return self._cluster.kubectl("-n", self.namespace, "logs", f"deployment/{_OPERATOR}")


@pytest.fixture
def single(shop: Shop) -> Iterator[_Single]:
    """That release in place of the one for all namespaces, which would look after the same resources."""
    made = _Single(shop.installation, shop.namespace)
    shop.installation.scale("operator", 0)
    try:
        made.install()
        yield made
    finally:
        made.uninstall()
        made.remove()
        shop.installation.scale("operator", 2)


@pytest.fixture
def other(shop: Shop) -> Iterator[Shop]:
    """Another namespace with a queue."""
    made = Shop(shop.installation, f"{shop.namespace}-other")
    made.create()
    made.declare()
    yield made
    made.remove()


def _may(api: Direct, account: str, what: tuple[str, str, str], namespace: str) -> bool:
    """Ask the API server whether an account may do something, as `kubectl auth can-i --as` does.

    Args:
        api: the way to it.
        account: its name as a user.
        what: verb, kind and name; an empty name for all.
        namespace: where; empty for everywhere.
    """
    verb, kind, name = what
    resource, _, part = kind.partition("/")
    asked = {
        "verb": verb,
        "group": GROUP if resource in {QUEUES, WORKERS} else "",
        "resource": resource,
        "subresource": part,
        "namespace": namespace,
        "name": name,
    }
    groups = ["system:serviceaccounts", "system:authenticated"]
    spec = {"user": account, "groups": groups, "resourceAttributes": asked}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    allowed: bool = api.insist("POST", _REVIEWS, body)["status"]["allowed"]
    return allowed


def test_it_looks_after_its_namespace_and_can_do_nothing_elsewhere(
    single: _Single, shop: Shop, other: Shop, api: Direct
) -> None:
    declared = Declared(shop, api)
    declared.first(STEADY, **_PATIENT)
    declared.queue("letters", deletionPolicy="Delete")
    declared.enrol(["legacy", "left"])
    declared.worker("legacy", "Ready")
    declared.worker("left", "Ready")
    declared.wait_converged(within=30.0)
    declared.worker("legacy", "Suspended")
    declared.queue("letters", maxReads=9)
    declared.wait_converged(within=30.0)
    declared.drop_worker("legacy")
    declared.drop_queue("letters")
    declared.wait_converged(within=30.0)

    account = f"system:serviceaccount:{single.namespace}:{_OPERATOR}"
    for what in _NEEDED:
        assert _may(api, account, what, shop.namespace)
        # Neither in another namespace, nor in all of them.
        assert not _may(api, account, what, other.namespace)
        assert not _may(api, account, what, "")
    for what in _DENIED:
        for namespace in (shop.namespace, single.namespace, other.namespace, ""):
            assert not _may(api, account, what, namespace)
    bindings = json.loads(shop.kubectl("get", "clusterrolebindings", "-o", "json"))["items"]
    assert bindings
    assert single.namespace not in {
        subject.get("namespace") for binding in bindings for subject in binding.get("subjects", ())
    }

    # Once it has ended, what is left can be deleted without it; its job has no more rights than itself.
    log = single.logs()
    single.uninstall()
    for kind in ("pgqrsqueue", "pgqrsworker"):
        assert [one["metadata"].get("finalizers") for one in shop.items(kind)] == [None]

    untouched = other.get("pgqrsqueue", "emails")
    assert "finalizers" not in untouched["metadata"]
    assert "status" not in untouched
    assert other.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
    # It asked for nothing that it may not have.
    assert "this process leads" in log
    assert "forbidden" not in log.lower()
