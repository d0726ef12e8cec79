"""The command `pgqrs-sidecar render`: prints manifests as the injector would change their pods, without a cluster.

It reads YAML from the standard input and needs no network: what the injector looks up in the queue's resource, options
say. A pod without the label is printed as it is.
"""

from __future__ import annotations

import argparse
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar

from pgqrs import names
from pgqrs.errors import ValidationError
from pgqrs_injection import pods, table
from pgqrs_injection.errors import InjectionError
from pgqrs_injection.names import QUEUE_LABEL, TOKEN_PLACEHOLDER
from pgqrs_injection.settings import PULL_POLICIES, Injection, QueueTarget
from pgqrs_injection.sidecar import SidecarDefaults
from pgqrs_sidecar import manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pgqrs_injection.values import Kind

T = TypeVar("T")

_EPILOG = f"""\
A pod is what has the label {QUEUE_LABEL}: a Pod, or the template in a Deployment, StatefulSet, DaemonSet,
ReplicaSet, Job, CronJob or a resource that is built like these. All else is printed as it is.

The token lets a process of the pod speak to its sidecar, and the kubelet start the drain. The injector makes one for
each pod; a template has one for all of its pods, so the manifest is as secret as the token. Without --token it has the
placeholder {TOKEN_PLACEHOLDER}, and is the same each time. A sidecar does not start with that.
"""
_NOTE = f"""\
pgqrs-sidecar render: put a token in the place of {TOKEN_PLACEHOLDER}, with which no sidecar starts: by --token, or
  sed "s/{TOKEN_PLACEHOLDER}/$(openssl rand -hex 24)/"
"""


class RenderError(Exception):
    """The input cannot be rendered; the message says which document of it, and why."""


def main(argv: Sequence[str]) -> int:
    """Render the standard input to the standard output.

    Returns:
        The exit code: 0, or 1 if the input is wrong; wrong arguments end the process with 2.
    """
    parser = _parser()
    found = parser.parse_args(argv)
    try:
        settings = Injection(
            image=found.image,
            pull_policy=found.pull_policy,
            cluster=found.cluster,
            drain_seconds=found.drain_seconds,
            raise_grace_period=not found.keep_grace_period,
            sidecar=SidecarDefaults.from_json(found.sidecar_defaults, source="--sidecar-defaults"),
        )
    except InjectionError as error:
        parser.error(str(error))
    try:
        documents, notes = render(
            manifests.load(sys.stdin.read()),
            settings,
            queue_name=found.queue_name,
            secret=found.secret,
            key=found.key,
            schema=found.schema,
            token=found.token,
        )
    except (RenderError, manifests.NoYamlError, UnicodeDecodeError) as error:
        sys.stderr.write(f"pgqrs-sidecar render: {error}\n")
        return 1
    for note in notes:
        sys.stderr.write(f"{note}\n")
    text = manifests.dump(documents)
    if TOKEN_PLACEHOLDER in text:
        sys.stderr.write(_NOTE)
    sys.stdout.write(text)
    return 0


def render(
    documents: Sequence[Any],
    settings: Injection,
    *,
    queue_name: str | None = None,
    secret: str = "pgqrs",  # noqa: S107 - the name of a Secret
    key: str = "dsn",
    schema: str = "public",
    token: str = TOKEN_PLACEHOLDER,
) -> tuple[list[Any], list[str]]:
    """Inject the pods in some documents.

    Args:
        documents: Kubernetes objects; labelled pods in them are replaced in place.
        settings: What holds for all pods.
        queue_name: The queue's name in the database; the label's value if None.
        secret: The Secret with the database's address, in the pods' namespace.
        key: The key in that Secret.
        schema: Where the tables are.
        token: The token of every pod that has none yet.

    Returns:
        The documents, and what their author should know.

    Raises:
        RenderError: there is no labelled pod in them, or one cannot be injected.
    """
    notes: list[str] = []
    labels: set[str] = set()
    for number, document in enumerate(documents, 1):
        place = f"document {number} ({_title(document)})"
        try:
            for pod in _pods(document):
                label = ((pod.get("metadata") or {}).get("labels") or {}).get(QUEUE_LABEL)
                if label is None:
                    continue
                labels.add(str(label))
                target = QueueTarget(queue=queue_name or str(label), secret=secret, key=key, schema=schema)
                notes += pods.warnings(pod, settings)
                pod.update(pods.inject(pod, target, settings, token=token))
        except InjectionError as error:
            message = f"{place}: {error}"
            raise RenderError(message) from error
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            message = f"{place} is not built as Kubernetes has it ({type(error).__name__}: {error})."
            raise RenderError(message) from error
    if not labels:
        message = f"There is no pod with the label {QUEUE_LABEL}: NAME in the input; the label names the queue."
        raise RenderError(message)
    if queue_name is not None and len(labels) > 1:
        message = f"--queue-name is for one queue, but the labels name {', '.join(sorted(labels))}; render each alone."
        raise RenderError(message)
    return list(documents), notes


def _pods(document: Any) -> Iterator[dict[str, Any]]:
    """The pods and the templates of pods in an object, by how it is built: not only Kubernetes' own kinds have them."""
    if isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _pods(item)
    elif document.get("kind") == "Pod":
        yield document
    else:
        spec = document.get("spec") or {}
        if "jobTemplate" in spec:
            spec = spec["jobTemplate"]["spec"]
        template = spec.get("template")
        if isinstance(template, dict) and "containers" in (template.get("spec") or {}):
            yield template


def _title(document: Any) -> str:
    if not isinstance(document, dict):
        return "no object"
    name = (document.get("metadata") or {}).get("name", "")
    return f"{document.get('kind', 'no kind')} {name}".strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pgqrs-sidecar render",
        description="Print manifests with the sidecar in their pods: reads YAML, writes YAML, needs no cluster.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    image = f"docker.io/library/pgqrs-sidecar:{metadata.version('pgqrs-kubernetes')}"
    add = parser.add_argument
    add("--queue-name", type=_checked(names.queue_name), help="the queue in the database (default: as the label says)")
    add("--secret", default="pgqrs", help="the Secret with the database's address, in the pods' namespace (pgqrs)")
    add("--key", default="dsn", help="the key in that Secret (dsn)")
    add("--schema", default="public", type=_checked(names.schema_name), help="where the tables are (public)")
    add("--image", default=image, help=f"the sidecar's image ({image})")
    add("--pull-policy", default="IfNotPresent", choices=PULL_POLICIES, help="of that image (IfNotPresent)")
    add("--cluster", help="tells clusters apart that share a database (none)")
    add("--drain-seconds", default=25, type=_checked(_drain_seconds), help="the longest drain of a pod, at least (25)")
    add("--keep-grace-period", action="store_true", help="cut a drain to its grace period instead of raising that")
    add("--sidecar-defaults", default="{}", metavar="JSON", help="what the chart has as injector.sidecar ({})")
    add(
        "--token",
        default=TOKEN_PLACEHOLDER,
        type=_checked(_token),
        help=f"of all pods: {table.TOKEN.allowed} (a placeholder)",
    )
    return parser


def _checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make of a check what argparse takes: its message reaches the person who wrote the argument."""

    def read(text: str) -> Any:
        try:
            return check(text)
        except (ValidationError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _drain_seconds(text: str) -> int:
    return _read(table.DRAIN, text)


def _token(text: str) -> str:
    return _read(table.TOKEN, text)


def _read(kind: Kind[T], text: str) -> T:
    try:
        return kind.read(text)
    except ValueError as error:
        raise ValueError(kind.complaint("it", text)) from error
