"""How an operator knows who it is among several."""

from __future__ import annotations

from pgqrs_operator.settings import Settings


def test_in_a_pod_an_operator_is_its_pod() -> None:
    environment = {"PGQRS_POD_NAME": "pgqrs-operator-7d9-x", "PGQRS_POD_IP": "10.0.0.7"}
    assert Settings.from_env(environment).identity == "pgqrs-operator-7d9-x_10.0.0.7"


def test_outside_of_pods_each_process_is_one_of_its_own() -> None:
    first, second = Settings.from_env({}).identity, Settings.from_env({}).identity
    assert first != second
    assert first.endswith("_")
