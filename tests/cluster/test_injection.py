"""What the injector makes of pods, as a real API server and a real kubelet have it."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.workloads import SLEEPER, container, pod
from tests.support.cluster.errors import ClusterError

if TYPE_CHECKING:
    from tests.cluster.ledgered import LedgeredShop
    from tests.cluster.workloads import Body

pytestmark = pytest.mark.timeout(300)

_SIDECAR = "pgqrs-sidecar"
_QUEUE = "emails"
#: Runs in the sidecar's container, which has Python and no shell tools: what an intruder would find there.
_LOOK = """
import glob, json, os

def listening(path):
    with open(path) as table:
        rows = [line.split() for line in table][1:]
    return [row[1] for row in rows if row[3] == "0A"]

def writable(folder):
    try:
        open(os.path.join(folder, "x"), "w").close()
    except OSError as error:
        return error.strerror
    return "yes"

status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16),
    "seccomp": int(status["Seccomp"]),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "writable": {folder: writable(folder) for folder in ("/", "/tmp", "/opt/pgqrs")},
    "tokens": glob.glob("/var/run/secrets/kubernetes.io/serviceaccount/*"),
    "listening": sorted(set(listening("/proc/net/tcp") + listening("/proc/net/tcp6"))),
}))
"""


@pytest.fixture(scope="module")
def queue(ledgered: LedgeredShop) -> LedgeredShop:
    """The shop with a queue and an account whose token pods get, as they do by default."""
    ledgered.ready_queue(_QUEUE)
    return ledgered


def _dry(queue: LedgeredShop, body: Body) -> Body:
    """Give a pod as the API server would have it."""
    made: Body = json.loads(queue.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(body)))
    return made


def _sidecar(body: Body) -> Body:
    (found,) = [one for one in body["spec"].get("initContainers", ()) if one["name"] == _SIDECAR]
    sidecar: Body = found
    return sidecar


def _without_place(spec: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs between two pods of one template: names that the API server makes up."""
    text = json.dumps({key: value for key, value in spec.items() if key != "nodeName"}, sort_keys=True)
    for volume in spec["volumes"]:
        if volume["name"].startswith("kube-api-access-"):
            text = text.replace(volume["name"], "kube-api-access")
    without: dict[str, Any] = json.loads(text)
    return without


def test_a_dry_run_shows_the_sidecar_and_leaves_no_trace(queue: LedgeredShop) -> None:
    before = queue.kubectl("get", "all,secrets,configmaps,pgqrsworkers", "-o", "name")
    rows = queue.number("SELECT count(*) FROM pgqrs_workers")
    made = _dry(queue, pod("dry", _QUEUE, container(command=SLEEPER)))
    assert _sidecar(made)["restartPolicy"] == "Always"
    assert queue.kubectl("get", "all,secrets,configmaps,pgqrsworkers", "-o", "name") == before
    assert queue.number("SELECT count(*) FROM pgqrs_workers") == rows


@pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client", "server"])
def test_a_pod_that_is_applied_twice_stays_as_it_is(how: tuple[str, ...], queue: LedgeredShop) -> None:
    name = f"twice-{len(how)}"
    body = json.dumps(pod(name, _QUEUE, container(command=SLEEPER), grace=30))
    queue.kubectl("apply", *how, "-f", "-", stdin=body)
    queue.kubectl("wait", "pod", name, "--for=condition=Ready", "--timeout=60s", timeout=70.0)
    before = queue.get("pod", name)
    _sidecar(before)
    queue.kubectl("apply", *how, "-f", "-", stdin=body)
    after = queue.get("pod", name)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_what_is_injected_already_is_not_injected_again(queue: LedgeredShop) -> None:
    first = _dry(queue, pod("once", _QUEUE, container(command=SLEEPER)))
    template = {"apiVersion": "v1", "kind": "Pod", "spec": copy.deepcopy(first["spec"])}
    template["metadata"] = {key: first["metadata"][key] for key in ("labels", "annotations")} | {"name": "again"}
    again = _dry(queue, template)
    assert _without_place(again["spec"]) == _without_place(first["spec"])


def test_what_other_injectors_and_people_wrote_stays(queue: LedgeredShop) -> None:
    mesh = {**container(name="mesh", command=SLEEPER), "restartPolicy": "Always"}
    own = {"name": _SIDECAR, "resources": {"limits": {"memory": "80Mi"}}, "env": [{"name": "HTTP_PROXY", "value": "x"}]}
    app = container(command=SLEEPER, environment={"PGQRS_HOSTNAME": "chosen.by.hand"})
    app["lifecycle"] = {"preStop": {"exec": {"command": ["true"]}}}
    body = pod("mixed", _QUEUE, app)
    body["spec"]["initContainers"] = [mesh, own]
    made = _dry(queue, body)["spec"]
    assert [one["name"] for one in made["initContainers"]] == ["mesh", _SIDECAR]
    sidecar = _sidecar({"spec": made})
    assert sidecar["resources"]["limits"] == {"memory": "80Mi"}
    assert {"name": "HTTP_PROXY", "value": "x"} in sidecar["env"]
    (app,) = made["containers"]
    assert app["lifecycle"] == {"preStop": {"exec": {"command": ["true"]}}}
    assert [one["value"] for one in app["env"] if one["name"] == "PGQRS_HOSTNAME"] == ["chosen.by.hand"]
    # A proxy that another injector brought has no business with the queue.
    assert made["initContainers"][0]["command"] == list(SLEEPER)


@pytest.mark.parametrize(
    ("annotation", "value", "said"),
    [
        ("drain-seconds", "soon", r"pgqrs\.io/drain-seconds .*soon.*whole number of seconds from 1 to"),
        ("connection-mode", "sometimes", r"pgqrs\.io/connection-mode .*sometimes.*persistent.*shortLived"),
        ("sidecar-memory-limit", "lots", r"pgqrs\.io/sidecar-memory-limit .*lots"),
        ("drain-second", "10", r"pgqrs\.io/drain-second\b.*pgqrs\.io/drain-seconds"),
    ],
)
def test_an_annotation_that_is_wrong_refuses_the_pod_and_says_what_is_allowed(
    annotation: str, value: str, said: str, queue: LedgeredShop
) -> None:
    body = pod("wrong", _QUEUE, container(command=SLEEPER), annotations={f"pgqrs.io/{annotation}": value})
    with pytest.raises(ClusterError, match=said):
        queue.apply(body)
    assert queue.get("pod", "wrong") == {}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        pytest.param({"hostNetwork": True}, "hostNetwork", id="host network"),
        pytest.param({"nodeSelector": {"kubernetes.io/os": "windows"}}, "[Ww]indows", id="Windows"),
    ],
)
def test_a_pod_that_no_sidecar_can_serve_is_refused(extra: Body, said: str, queue: LedgeredShop) -> None:
    body = pod("unfit", _QUEUE, container(command=SLEEPER))
    body["spec"].update(extra)
    with pytest.raises(ClusterError, match=f"denied the request: .*{said}"):
        queue.apply(body)


def test_the_sidecar_has_no_more_than_it_needs_where_pods_are_restricted(queue: LedgeredShop) -> None:
    level = "pod-security.kubernetes.io/enforce=restricted"
    queue.installation.cluster.kubectl("label", "namespace", queue.namespace, "--overwrite", level)
    loose = container(command=SLEEPER)
    del loose["securityContext"]
    with pytest.raises(ClusterError, match="violates PodSecurity") as refused:
        queue.apply(pod("loose", _QUEUE, loose))
    # It is the app that is refused for.
    assert _SIDECAR not in str(refused.value)

    queue.start(pod("strict", _QUEUE))
    queue.send_to(_QUEUE, 1)
    queue.wait_done(_QUEUE, within=30.0)
    look = ("exec", "-i", "strict", "-c", _SIDECAR, "--", "/opt/pgqrs/bin/python", "-")
    found = json.loads(queue.kubectl(*look, stdin=_LOOK))
    assert found["uid"] > 0
    assert (found["capabilities"], found["seccomp"], found["no_new_privileges"]) == (0, 2, 1)
    assert set(found["writable"].values()) == {"Read-only file system"}
    # The app's container has one, as pods have by default.
    assert queue.kubectl("exec", "strict", "-c", "app", "--", "ls", "/var/run/secrets/kubernetes.io/serviceaccount")
    assert found["tokens"] == []
    # Sessions on loopback; probes and hooks at the pod's address, where the kubelet comes from. Numbers as the kernel
    # writes them: 9191 at 127.0.0.1, 9190 at any address.
    assert {row.partition(":")[2] for row in found["listening"]} == {f"{9190:04X}", f"{9191:04X}"}
    assert [row for row in found["listening"] if row.endswith(f":{9191:04X}")] == [f"0100007F:{9191:04X}"]
