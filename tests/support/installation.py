"""pgqrs in a cluster: its images, its chart with the PostgreSQL for development, and a way to that database."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.cluster.looking import look

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.cluster.provider import Cluster

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pgqrs"
EXAMPLE = ROOT / "deploy" / "examples" / "emails"
EXAMPLE_IMAGE = "docker.io/library/pgqrs-example-emails:0.1.0"
SYSTEM = "pgqrs-system"
RELEASE = "pgqrs"
#: Where operator and injector answer Prometheus, and where a sidecar does.
METRICS_PORT = 8080
SIDECAR_METRICS_PORT = 9190

#: The values of tests: each of their namespaces gets a Secret of its own.
VALUES: dict[str, Any] = {"developmentPostgres": {"namespaces": []}}

_POSTGRES = "docker.io/library/postgres:15-bookworm"
#: The images by their recipes; the chart and the example name the same.
_IMAGES = {
    "docker.io/library/pgqrs-operator:0.1.0": ROOT / "deploy" / "images" / "operator" / "Dockerfile",
    "docker.io/library/pgqrs-sidecar:0.1.0": ROOT / "deploy" / "images" / "sidecar" / "Dockerfile",
    EXAMPLE_IMAGE: EXAMPLE / "Dockerfile",
}
_DATABASE = f"{RELEASE}-development-postgres"
_PSQL = 'PGPASSWORD="$POSTGRES_PASSWORD" exec psql -qtAX -v ON_ERROR_STOP=1 -h 127.0.0.1 -U pgqrs -d'


class Installation:
    """The release `pgqrs` in the namespace `pgqrs-system` of a cluster."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self.cluster = cluster
        self._say = say

    def bring_images(self) -> None:
        """Build the images and bring them to the nodes; a cluster that is somebody's own must pull them.

        Raises:
            ClusterError: a build failed.
        """
        if self.cluster.provider == "kubeconfig":
            self._say(f"this cluster must be able to pull {', '.join(_IMAGES)}")
            return
        for tag, dockerfile in _IMAGES.items():
            self.cluster.build_image(dockerfile, tag, context=ROOT)
        self.cluster.load_image(_POSTGRES)

    def install(self, values: Mapping[str, Any]) -> None:
        """Install or upgrade the chart with a PostgreSQL for development, and wait until all of it is ready.

        Args:
            values: further values of the chart; namespaces that they name must exist.

        Raises:
            ClusterError: it did not become ready in time.
        """
        # The images keep their tags; what differs at each time makes pods of an earlier installation start anew.
        anew = {"podAnnotations": {"pgqrs.io/installed-at": f"{time.time():.0f}"}}
        postgres = {"enabled": True, **values.get("developmentPostgres", {})}
        merged = {"operator": anew, "injector": anew, **values, "developmentPostgres": postgres}
        self._say("helm upgrade --install: operator, injector, a PostgreSQL for development")
        self.cluster.helm(
            *("upgrade", "--install", RELEASE, str(CHART), "-n", SYSTEM, "--create-namespace"),
            *("--wait", "--timeout", "180s", "--values", "-"),
            stdin=json.dumps(merged),
            timeout=240.0,
        )

    def uninstall(self) -> None:
        """Take the release away, with the chart's hook that lets every resource go.

        Raises:
            ClusterError: something of it hangs.
        """
        self.cluster.helm("uninstall", RELEASE, "-n", SYSTEM, "--ignore-not-found", "--wait", timeout=300.0)

    def scale(self, part: str, replicas: int) -> None:
        """Let a part of the release run so many pods, and wait until it does.

        Args:
            part: `operator` or `injector`.
            replicas: how many.

        Raises:
            ClusterError: it did not become so in time.
        """
        deployment = f"deployment/{RELEASE}-{part}"
        self.cluster.kubectl("-n", SYSTEM, "scale", deployment, f"--replicas={replicas}")
        self.cluster.kubectl("-n", SYSTEM, "rollout", "status", deployment, "--timeout=90s", timeout=100.0)

    def metrics(self, pod: str, *, namespace: str = SYSTEM, port: int = METRICS_PORT) -> str:
        """Give what a pod tells Prometheus, by way of the API server."""
        return self.cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics")

    def query(self, sql: str, *, database: str = "pgqrs") -> str:
        """Run SQL in the development database and give what it selects, as text."""
        where = ("-n", SYSTEM, "exec", "-i", f"deploy/{_DATABASE}", "--", "sh", "-c", f"{_PSQL} {database}")
        return self.cluster.kubectl(*where, stdin=sql, timeout=30.0).strip()

    def password(self) -> str:
        """Give the development database's password."""
        found = self.cluster.kubectl("-n", SYSTEM, "get", "secret", _DATABASE, "-o=jsonpath={.data.password}")
        return base64.b64decode(found).decode()

    def dsn(self, database: str, *, password: str) -> str:
        """Give the address of a database of the development server, as pods see it."""
        return f"postgresql://pgqrs:{password}@{_DATABASE}.{SYSTEM}.svc:5432/{database}"

    def diagnosis(self) -> str:
        """Give what is useful after a failure: the nodes, and what the system's own pods did and said."""
        return look(
            self.cluster,
            [
                ("get", "nodes", "-o", "wide"),
                ("-n", SYSTEM, "get", "pods", "-o", "wide"),
                ("-n", SYSTEM, "get", "events", "--sort-by=.lastTimestamp"),
                *(
                    (
                        *("-n", SYSTEM, "logs", "-l", f"app.kubernetes.io/component={part}"),
                        *("--all-containers", "--prefix", "--tail=60"),
                    )
                    for part in ("operator", "injector", "development-postgres")
                ),
            ],
        )
