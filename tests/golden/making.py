"""What each golden file has to be: pods after their injection, plain manifests, the page of annotations."""

from __future__ import annotations

from pathlib import Path

from pgqrs_injection import page, pods
from pgqrs_injection.names import QUEUE_LABEL, TOKEN_PLACEHOLDER
from pgqrs_injection.settings import Injection, QueueTarget
from pgqrs_sidecar import manifests, render

ROOT = Path(__file__).parents[2]
PODS = Path(__file__).parent / "injection"
PLAIN = ROOT / "deploy" / "plain" / "emails"
PAGE = ROOT / "docs" / "annotations.md"

SETTINGS = Injection(image="docker.io/library/pgqrs-sidecar:0.1.0")
TOKEN = "the-token-of-golden-files"
_EXAMPLES = ROOT / "deploy" / "examples" / "emails"
_PLAIN_HEAD = f"""\
# For clusters without the injector: deploy/examples/emails/NAME after
#   pgqrs-sidecar render < deploy/examples/emails/NAME
# The token lets whoever knows it and reaches the pod drain it. No sidecar starts with the placeholder; set your own:
#   sed "s/{TOKEN_PLACEHOLDER}/$(openssl rand -hex 24)/" deploy/plain/emails/NAME | kubectl apply -f -
# The database's address is in the Secret `pgqrs`, key `dsn`, of the same namespace. The queue `emails` must exist:
# apply deploy/examples/emails/queue.yaml where the operator runs, else `pgqrs queue create emails`.
# Made by `python -m tests.golden`; a test compares.
"""


def made() -> dict[Path, str]:
    """Every golden file with the text that it has to have."""
    texts = {PAGE: page.render()}
    for before in sorted(PODS.glob("*.before.yaml")):
        texts[PODS / before.name.replace(".before.", ".after.")] = _injected(before)
    for name in ("deployment.yaml", "job.yaml"):
        texts[PLAIN / name] = _plain(name)
    return texts


def _injected(before: Path) -> str:
    [pod] = manifests.load(before.read_text(encoding="utf-8"))
    queue = QueueTarget(queue=pod["metadata"]["labels"][QUEUE_LABEL], secret="pgqrs", key="dsn")
    notes = "".join(f"# Warning: {note}\n" for note in pods.warnings(pod, SETTINGS))
    return notes + manifests.dump([pods.inject(pod, queue, SETTINGS, token=TOKEN)])


def _plain(name: str) -> str:
    documents = manifests.load((_EXAMPLES / name).read_text(encoding="utf-8"))
    rendered, _ = render.render(documents, SETTINGS)
    return _PLAIN_HEAD.replace("NAME", name) + manifests.dump(rendered)
