"""Makes the containers of an injected pod: what their author wrote stays, what is missing is filled in."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgqrs_injection.names import NO_TOKEN_VOLUME, SIDECAR_CONTAINER
from pgqrs_injection.options import DRAIN_VARIABLE, HTTP_PORT_VARIABLE, SESSION_PORT_VARIABLE, TOKEN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgqrs_injection.options import Options
    from pgqrs_injection.settings import Injection, QueueTarget

_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - the place of a token
#: How the API server's ServiceAccount admission names its volume.
_TOKEN_VOLUME = "kube-api-access-"  # noqa: S105 - the name of a volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Makes the containers of one pod."""

    queue: QueueTarget
    settings: Injection
    options: Options
    token: str

    def app(self, container: dict[str, Any]) -> dict[str, Any]:
        """Give an app container with the environment and the hook."""
        lifecycle = container.get("lifecycle") or {}
        # This hook holds SIGTERM back until the drain is done, so an app that ignores or obeys SIGTERM drains alike. It
        # says whose it is: the kubelet also calls it when this one container is restarted by a probe.
        hook = self._hook(f"/drain?token={self.token}&container={container['name']}")
        environment = self._environment(container, dsn=self.options.inject_dsn)
        return {**container, "env": environment, "lifecycle": {"preStop": hook, **lifecycle}}

    def sidecar(self, written: dict[str, Any]) -> dict[str, Any]:
        """Give the sidecar's container; `written` is what the pod has of it already."""
        # Filled in field by field: a hook of another kind, or one word about rights, takes nothing else away.
        lifecycle = {"preStop": self._hook(f"/drain?token={self.token}"), **(written.get("lifecycle") or {})}
        security = copy.deepcopy(self.settings.sidecar.security_context) | (written.get("securityContext") or {})
        made = {
            "name": SIDECAR_CONTAINER,
            "image": self.settings.image,
            "imagePullPolicy": self.settings.pull_policy,
            # What makes an init container a native sidecar: it stays, and it ends after the app's containers.
            "restartPolicy": "Always",
            "lifecycle": lifecycle,
            "startupProbe": self._probe("/started", periodSeconds=1, failureThreshold=120, timeoutSeconds=2),
            # No liveness probe: before the kubelet restarts a container it calls its preStop hook, which is the pod's
            # drain, and its SIGTERM stops the rows of a pod that goes on. A sidecar that hangs ends itself.
            "resources": copy.deepcopy(self.options.resources),
            "securityContext": security,
            # Where it does not start, `kubectl describe pod` says why.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        own = [
            _variable(HTTP_PORT_VARIABLE, str(self.options.http_port)),
            _variable(SESSION_PORT_VARIABLE, str(self.options.session_port)),
            _variable(DRAIN_VARIABLE, str(self.options.drain_seconds)),
            _variable("PGQRS_HEARTBEAT_SECONDS", str(self.options.heartbeat_seconds)),
            _variable("PGQRS_CONNECTION_MODE", self.options.connection_mode),
            _variable("PGQRS_LOG_LEVEL", self.options.log_level),
        ]
        environment = self._environment({**written, "name": SIDECAR_CONTAINER}, dsn=True, more=own)
        fitted = {"lifecycle": lifecycle, "securityContext": security, "env": environment}
        return {**made, **_own(written), **fitted, "volumeMounts": _mounts(written)}

    def _environment(
        self, container: dict[str, Any], *, dsn: bool, more: Sequence[dict[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """The container's environment with what is missing at its end.

        The order counts: `$(NAME)` is replaced only where NAME stands further up.
        """
        queue, cluster = self.queue, self.settings.cluster
        hostname = "$(PGQRS_POD_NAME).$(PGQRS_POD_NAMESPACE)" + (f".{_literal(cluster)}" if cluster else "")
        secret = {"secretKeyRef": {"name": queue.secret, "key": queue.key}}
        wanted: list[dict[str, Any]] = [
            *([{"name": "PGQRS_DSN", "valueFrom": secret}] if dsn else []),
            *([_variable("PGQRS_SCHEMA", _literal(queue.schema))] if queue.schema != "public" else []),
            _variable("PGQRS_QUEUE", _literal(queue.queue)),
            _downward("PGQRS_POD_NAME", "metadata.name"),
            _downward("PGQRS_POD_NAMESPACE", "metadata.namespace"),
            _downward("PGQRS_POD_UID", "metadata.uid"),
            *([_variable("PGQRS_CLUSTER", _literal(cluster))] if cluster else []),
            _variable("PGQRS_HOSTNAME", hostname),
            _variable("PGQRS_CONTAINER", container["name"]),
            _variable("PGQRS_SIDECAR", f"127.0.0.1:{self.options.session_port}"),
            _variable(TOKEN_VARIABLE, self.token),
            # For both: the sidecar lets the app start, and the app's worker waits.
            *([_variable("PGQRS_START_WITHOUT_DATABASE", "true")] if self.options.start_without_database else []),
            *more,
        ]
        # A token that is not the pod's opens nothing, so this one variable is never the author's.
        kept = [
            variable
            for variable in container.get("env") or []
            if variable["name"] != TOKEN_VARIABLE or variable.get("value") == self.token
        ]
        names = {variable["name"] for variable in kept}
        return kept + [variable for variable in wanted if variable["name"] not in names]

    def _hook(self, path: str) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": self.options.http_port, "scheme": "HTTP"}}

    def _probe(self, path: str, **limits: int) -> dict[str, Any]:
        return {**self._hook(path), **limits}


def _own(written: dict[str, Any]) -> dict[str, Any]:
    """What the sidecar's author wrote, without what the API server filled in: empty objects, the policy of no image."""
    own = {name: value for name, value in written.items() if value not in (None, "", {}, [])}
    if "image" not in own:
        own.pop("imagePullPolicy", None)
    return own


def _mounts(written: dict[str, Any]) -> list[dict[str, Any]]:
    """The sidecar's mounts, with an empty folder where the API server's admission would mount a Kubernetes token.

    The admission leaves a container alone that has a mount at this place. Where it came first, its mount goes away.
    """
    kept = [
        mount
        for mount in written.get("volumeMounts") or []
        if mount["mountPath"] != _TOKEN_PATH or not mount["name"].startswith(_TOKEN_VOLUME)
    ]
    if any(mount["mountPath"] == _TOKEN_PATH for mount in kept):
        return kept
    return [*kept, {"name": NO_TOKEN_VOLUME, "mountPath": _TOKEN_PATH, "readOnly": True}]


def _variable(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}


def _literal(text: str) -> str:
    """Write a text so that Kubernetes does not take a `$(NAME)` in it for a reference."""
    return text.replace("$", "$$")


def _downward(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
