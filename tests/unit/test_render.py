"""`pgqrs-sidecar render`: the injector's change without a cluster."""

from __future__ import annotations

import copy
import io
import json
import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgqrs.errors import ConfigurationError
from pgqrs_injection import pods
from pgqrs_injection.names import TOKEN_PLACEHOLDER
from pgqrs_injection.settings import Injection, QueueTarget
from pgqrs_sidecar import manifests, render
from pgqrs_sidecar.settings import Settings
from tests.golden.making import PLAIN, PODS, ROOT, made

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "a-token-of-this-test"


class Command:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, text: str, *argv: str) -> tuple[int, str, str]:
        """Give the exit code, the output and the errors."""
        self._monkeypatch.setattr("sys.stdin", io.StringIO(text))
        try:
            code: int | str | None = render.main(argv)
        except SystemExit as end:
            code = end.code
        captured = self._capsys.readouterr()
        assert isinstance(code, int)
        return code, captured.out, captured.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def template(**labels: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app"}]}}


def labelled() -> dict[str, Any]:
    return template(**{"pgqrs.io/queue": "emails"})


def tokens(text: str) -> set[str]:
    return set(re.findall(r"token=([A-Za-z0-9_-]+)", text))


def without_tokens(text: str) -> str:
    for token in tokens(text):
        text = text.replace(token, "TOKEN")
    return text


@pytest.mark.parametrize("path", sorted(PODS.glob("*.before.yaml")), ids=lambda path: path.name.partition(".")[0])
def test_a_pod_comes_out_as_from_the_injector_but_for_the_token(path: Path, command: Command) -> None:
    text = path.read_text(encoding="utf-8")
    code, out, _ = command(text)
    [pod] = manifests.load(text)
    label = pod["metadata"]["labels"]["pgqrs.io/queue"]
    image = metadata.version("pgqrs-kubernetes")
    settings = Injection(image=f"docker.io/library/pgqrs-sidecar:{image}")
    expected = pods.inject(pod, QueueTarget(queue=label, secret="pgqrs", key="dsn"), settings)
    assert code == 0
    assert without_tokens(out) == without_tokens(manifests.dump([expected]))
    assert len(tokens(out)) == 1


_SPECS: list[tuple[str, dict[str, Any]]] = [
    ("Deployment", {"spec": {"replicas": 2, "template": labelled()}}),
    ("StatefulSet", {"spec": {"serviceName": "s", "template": labelled()}}),
    ("DaemonSet", {"spec": {"template": labelled()}}),
    ("ReplicaSet", {"spec": {"template": labelled()}}),
    ("Job", {"spec": {"template": labelled()}}),
    ("CronJob", {"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": labelled()}}}}),
    ("Pod", labelled()),
    ("List", {"items": [{"kind": "Pod", **labelled()}]}),
    ("Rollout", {"spec": {"template": labelled()}}),
]


@pytest.mark.parametrize(("kind", "body"), _SPECS, ids=[kind for kind, _ in _SPECS])
def test_every_kind_with_a_template_is_rendered(kind: str, body: dict[str, Any], command: Command) -> None:
    document = {"kind": kind, **copy.deepcopy(body)}
    code, out, err = command(manifests.dump([document]), "--token", TOKEN)
    assert (code, err) == (0, "")
    target = QueueTarget(queue="emails", secret="pgqrs", key="dsn")
    version = metadata.version("pgqrs-kubernetes")
    wanted = pods.inject(labelled(), target, Injection(image=f"docker.io/library/pgqrs-sidecar:{version}"), token=TOKEN)
    assert json.dumps(wanted)[1:-1] in json.dumps(manifests.load(out))


def test_everything_else_passes_unchanged(command: Command) -> None:
    others = [
        {"kind": "Service", "spec": {"ports": [{"port": 80}]}},
        {
            "kind": "ConfigMap",
            "data": {"a": "1e3", "b": "2026-01-01", "c": "yes", "d": "x\ny\n", "e": "0o14", "f": "12:30"},
        },
        {"kind": "Deployment", "spec": {"template": template(app="web")}},
        {"kind": "Certificate", "spec": {"template": {"type": "x"}}},
    ]
    text = manifests.dump([*others, {"kind": "Pod", **labelled()}])
    code, out, _ = command(text)
    assert code == 0
    rendered = manifests.load(out)
    assert rendered[:-1] == others
    assert rendered[-1]["spec"]["initContainers"][0]["name"] == "pgqrs-sidecar"


def test_without_a_token_it_is_the_same_each_time_and_says_that_one_is_missing(command: Command) -> None:
    text = manifests.dump([{"kind": "Pod", **labelled()}, {"kind": "Pod", **labelled()}])
    code, once, err = command(text)
    assert code == 0
    assert tokens(once) == {TOKEN_PLACEHOLDER}
    assert f"put a token in the place of {TOKEN_PLACEHOLDER}" in err
    assert command(text) == (0, once, err)
    # What it made stays as it is.
    assert command(once) == (0, once, err)
    assert command(once.replace(TOKEN_PLACEHOLDER, TOKEN), "--token", "another-token-than-it-has")[1:] == (
        once.replace(TOKEN_PLACEHOLDER, TOKEN),
        "",
    )


def test_no_sidecar_starts_with_the_placeholder() -> None:
    environment = {
        "PGQRS_DSN": "postgresql://db/jobs",
        "PGQRS_QUEUE": "emails",
        "PGQRS_HOSTNAME": "web.shop",
        "PGQRS_POD_NAME": "web",
        "PGQRS_POD_NAMESPACE": "shop",
        "PGQRS_POD_UID": "u-1",
        "PGQRS_SIDECAR_TOKEN": TOKEN,
    }
    assert Settings.from_env(environment).token == TOKEN
    with pytest.raises(ConfigurationError, match="PGQRS_SIDECAR_TOKEN is the placeholder"):
        Settings.from_env({**environment, "PGQRS_SIDECAR_TOKEN": TOKEN_PLACEHOLDER})


def test_options_say_what_the_chart_and_the_queue_would(command: Command) -> None:
    options = ["--queue-name", "the emails", "--secret", "db", "--key", "uri", "--schema", "jobs"]
    options += ["--image", "i:2", "--pull-policy", "Always", "--cluster", "west", "--drain-seconds", "40"]
    options += ["--keep-grace-period", "--token", TOKEN, "--sidecar-defaults", '{"heartbeatSeconds": 9}']
    code, out, err = command(manifests.dump([{"kind": "Pod", **labelled()}]), *options)
    assert code == 0
    assert "should be 45 or more for a drain of 40 s, which is cut to 25" in err
    [pod] = manifests.load(out)
    [sidecar] = pod["spec"]["initContainers"]
    found = {one["name"]: one.get("value", one.get("valueFrom")) for one in sidecar["env"]}
    assert (sidecar["image"], sidecar["imagePullPolicy"]) == ("i:2", "Always")
    assert found["PGQRS_DSN"] == {"secretKeyRef": {"name": "db", "key": "uri"}}
    assert (found["PGQRS_QUEUE"], found["PGQRS_SCHEMA"], found["PGQRS_CLUSTER"]) == ("the emails", "jobs", "west")
    assert (found["PGQRS_DRAIN_SECONDS"], found["PGQRS_HEARTBEAT_SECONDS"]) == ("25", "9")
    assert found["PGQRS_SIDECAR_TOKEN"] == TOKEN
    assert "terminationGracePeriodSeconds" not in pod["spec"]


def test_a_raised_grace_period_is_told(command: Command) -> None:
    pod = {"kind": "Pod", **labelled()}
    pod["metadata"]["annotations"] = {"pgqrs.io/drain-seconds": "60"}
    code, out, err = command(manifests.dump([pod]))
    assert code == 0
    assert "raised from 30 to 65" in err
    assert "terminationGracePeriodSeconds: 65" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no pod with the label pgqrs.io/queue"),
        ("kind: Pod\nmetadata: {}\nspec: {containers: []}\n", "no pod with the label"),
        ("a: [", "no YAML (line 1"),
        ("!!python/object:os.system x", "no YAML"),
        ("just words", "document 1 (no object) is not built"),
        ("kind: Pod\nmetadata: {name: p, labels: {pgqrs.io/queue: q}}\n", "document 1 (Pod p) is not built"),
        ("&a\nkind: List\nitems: [*a]\n", "document 1 (List) is not built"),
        (
            manifests.dump(
                [{"kind": "Service"}, {"kind": "Pod", **labelled(), "spec": {"hostNetwork": True, "containers": []}}]
            ),
            "document 2 (Pod): A pod with hostNetwork",
        ),
    ],
)
def test_wrong_input_is_told_without_a_traceback(text: str, said: str, command: Command) -> None:
    code, out, err = command(text)
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err


def test_one_queue_name_is_not_for_two_labels(command: Command) -> None:
    text = manifests.dump([{"kind": "Pod", **template(**{"pgqrs.io/queue": name})} for name in ("a", "b")])
    code, _, err = command(text, "--queue-name", "x")
    assert code == 1
    assert "the labels name a, b" in err
    assert command(text)[0] == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--token", "short"], "16 to 128"),
        (["--token", "with a blank and &more=1"], "16 to 128"),
        (["--schema", "a b"], "schema name"),
        (["--queue-name", " x"], "queue name"),
        (["--drain-seconds", "0"], "a whole number of seconds from 1 to 86400"),
        (["--pull-policy", "Sometimes"], "invalid choice"),
        (["--sidecar-defaults", '{"heartbeatSeconds": 0}'], "heartbeatSeconds is 0"),
        (["file.yaml"], "unrecognized arguments"),
    ],
)
def test_a_wrong_argument_is_named(argv: list[str], said: str, command: Command) -> None:
    code, out, err = command("", *argv)
    assert (code, out) == (2, "")
    assert said in err


_texts = st.one_of(
    st.text(),
    st.sampled_from(
        ["yes", "y", "n", "on", "null", "~", "", "1e3", "1234e5", "0o17", "017", "1:30", "2026-01-01", "=", "<<"]
    ),
    st.from_regex(r"[-+0-9.eExo_:]{1,8}", fullmatch=True),
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)),
    max_leaves=8,
)


@given(_values.filter(lambda value: value is not None))
@example({"\x85": "a\n\x85b", "\u2028": ["\u2029", "\r"]})
def test_nothing_changes_its_meaning_on_the_way_through_yaml(value: Any) -> None:
    assert manifests.load(manifests.dump([value])) == [value]


def test_yaml_is_read_as_kubectl_does() -> None:
    text = "{a: 1e3, b: 2026-01-01, c: 12:30, d: 0644, e: yes, f: =, g: 0x1f, h: '1e3', i: y}"
    expected = {
        "a": 1000.0,
        "b": "2026-01-01",
        "c": "12:30",
        "d": 420,
        "e": True,
        "f": "=",
        "g": 31,
        "h": "1e3",
        "i": "y",
    }
    assert manifests.load(text) == [expected]
    assert "h: '1e3'" in manifests.dump([expected]).splitlines()


@pytest.mark.parametrize("name", ["deployment.yaml", "job.yaml"])
def test_plain_manifests_are_the_examples_rendered(name: str, command: Command) -> None:
    path = PLAIN / name
    text = path.read_text(encoding="utf-8")
    assert text == made()[path], f"{path.relative_to(ROOT)} is stale; run `.venv/bin/python -m tests.golden`"
    # It is what the command in its head gives.
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    said = re.search(r"pgqrs-sidecar render < (\S+)", head)
    assert said is not None
    code, out, _ = command((ROOT / said[1]).read_text(encoding="utf-8"))
    assert code == 0
    assert head + out == text
    assert {path.name for path in PLAIN.iterdir()} == {"deployment.yaml", "job.yaml"}
