"""Writes `docs/annotations.md` from the table of annotations, so that the page says what the code does."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from pgqrs_injection.names import INJECTED_ANNOTATION, QUEUE_LABEL
from pgqrs_injection.table import HTTP_PORT, TABLE

if TYPE_CHECKING:
    from pgqrs_injection.table import Annotation

_WIDTH = 120
_HEAD = f"""\
<!-- Made from injection/pgqrs_injection by `python -m tests.golden`; a test compares. -->
# What can be written on a pod

One label puts a pod to work on a queue. Annotations say what differs from the installation's defaults for this pod.
They stand in the pod's own metadata: in a Deployment, StatefulSet, DaemonSet or Job in `spec.template.metadata`, in a
CronJob in `spec.jobTemplate.spec.template.metadata`.

```yaml
metadata:
  labels:
    {QUEUE_LABEL}: emails
  annotations:
    pgqrs.io/drain-seconds: "120"
```

The values of annotations are texts: numbers and `true` need quotation marks. A value that is not allowed, or an
annotation under `pgqrs.io/` that is not listed here, refuses the pod with a message that says what is allowed: see the
Events of its ReplicaSet, StatefulSet or Job.

What a pod's author wrote into the pod itself stays: a variable of `env`, a `preStop` hook, an init container named
`pgqrs-sidecar` with some fields of its own. Only what is missing is filled in. A variable in that container's `env`
wins over the annotation for the same thing, and all else is made to fit it: with `PGQRS_SIDECAR_HTTP_PORT` there,
probes and hooks use this port. A grace period that is too short is raised.

Pods with `hostNetwork` and pods for Windows nodes are refused, and so are pods whose containers have the sidecar's
ports.

A service mesh that lets only encrypted connections in stands between the kubelet and the sidecar's probes and hooks.
Where it does not rewrite both, leave the sidecar's HTTP port out of it. The annotation for Istio's sidecars is
`traffic.sidecar.istio.io/excludeInboundPorts: "{HTTP_PORT}"`, that for Linkerd
`config.linkerd.io/skip-inbound-ports: "{HTTP_PORT}"`.

## Without the webhook

`pgqrs-sidecar render` makes the same change in a file, for those who want to see it or inject by kustomize:

```sh
kustomize build overlays/production | pgqrs-sidecar render --token "$TOKEN" | kubectl apply -f -
```

It takes every kind that has a pod template, and prints all else as it is; `--help` lists what the chart and the
queue's resource would say. A template has one token for all of its pods. It stands in the manifest, which is then as
secret as the token: whoever knows it and reaches a pod can drain it. Without `--token` the manifest has a placeholder,
so that it is the same each time and can be kept with others; a sidecar does not start with it, and `sed` puts the token
in its place. `deploy/plain` has the example of this repository as it comes out.

## The label `{QUEUE_LABEL}`

| | |
|---|---|
| type | the name of a `PgqrsQueue` in the pod's namespace |
| default | none: a pod without it is left alone |
| set on | the pod, as a label, before it is created |

The queue that the pod's processes work on or send to. An unknown name refuses the pod, unless the chart's
`injector.unknownQueue` is `Admit`: then the pod starts without a sidecar and is reported.

```yaml
labels:
  {QUEUE_LABEL}: emails
```
"""
_TAIL = f"""\
## Written by the injector

`{INJECTED_ANNOTATION}: "v1"` stands on every pod that was injected.
"""


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(annotation) for annotation in TABLE), _TAIL])


def _section(annotation: Annotation[Any]) -> str:
    purpose = textwrap.fill(annotation.purpose, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"""\
## `{annotation.key}`

| | |
|---|---|
| type | {annotation.kind.title} |
| default | {annotation.default} |
| allowed | {annotation.kind.allowed} |

{purpose}

```yaml
annotations:
  {annotation.key}: "{annotation.example}"
```
"""
