"""Renders the chart as `helm template` does; no cluster is needed for it, only helm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.cluster.commands import run
from tests.support.cluster.programs import HELM, build

if TYPE_CHECKING:
    from collections.abc import Mapping

CHART = Path(__file__).parents[2] / "charts" / "pgqrs"
RELEASE = "pgqrs"
NAMESPACE = "pgqrs-system"
#: What the cluster that it is rendered for would say of itself; the chart asks for 1.29 or later.
_KUBERNETES = "1.36.0"


def render(values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Give the objects that the chart makes with these values.

    Raises:
        MissingPrerequisiteError: helm is not installed and cannot be built.
        ClusterError: the values are not allowed, or a template is wrong; the message ends with helm's last lines.
    """
    helm = shutil.which("helm") or build(HELM) / "helm"
    text = run(
        [helm, "template", RELEASE, CHART, "-n", NAMESPACE, "--kube-version", _KUBERNETES, "-f", "-"],
        stdin=json.dumps(values or {}),
    )
    return [document for document in yaml.safe_load_all(text) if document]


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any] | None:
    """Give the one object of this kind and name, None without one."""
    found = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    assert len(found) < 2, f"{kind} {name} stands there twice"
    return found[0] if found else None
