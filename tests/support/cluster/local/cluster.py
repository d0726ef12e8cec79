"""A cluster from parts on a bare Linux machine.

`layout` says where everything is, `credentials` makes the keys, `components` and `node` say which processes run, `box`
holds the namespaces they run in, `supervisor` keeps them running there, and this module does it all in the right order.
The machine's own network, mounts and processes stay as they are, but for one link to the API server.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.client import Client
from tests.support.cluster.commands import run, tail, wait_for
from tests.support.cluster.errors import ClusterError
from tests.support.cluster.local import box, slots
from tests.support.cluster.local.addons import addons
from tests.support.cluster.local.components import control_plane, control_plane_files, dump
from tests.support.cluster.local.credentials import credential_files
from tests.support.cluster.local.images import BASES, ImageStore, Recipe, Snapshot
from tests.support.cluster.local.layout import MOST_NODES, Layout, NodeLayout, check_name
from tests.support.cluster.local.node import PAUSE_IMAGE, node_components, node_files
from tests.support.cluster.local.prerequisites import require, require_root
from tests.support.cluster.programs import build_all, exclusive
from tests.support.cluster.provider import ClusterStatus

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence

    from tests.support.cluster.progress import Progress

_READY_TIMEOUT = 120.0
_IMPORT_TIMEOUT = 180.0


def clusters_root() -> Path:
    """Give the folder of all local clusters: `PGQRS_TEST_STATE`, or one below /var/lib."""
    return Path(os.environ.get("PGQRS_TEST_STATE") or "/var/lib/pgqrs-test-cluster")


class LocalCluster(Client):
    """The cluster of one name on this machine, running or not."""

    provider = "local"

    def __init__(self, name: str, progress: Progress) -> None:
        self.name = check_name(name)
        self._root = clusters_root() / name
        super().__init__(self._root / "kubeconfig", search_path=self._root / "bin")
        self._progress = progress

    # -- life ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Build the programs and the base images: see `provider.Cluster`."""
        require()
        programs = build_all()
        self._progress.say("programs are built")
        store = ImageStore(self._progress)
        for recipe in (Recipe.pause(programs["pause"]), *BASES.values()):
            store.archive(Snapshot.take(recipe))
        self._progress.say("base images are built")

    def up(self, *, nodes: int | None = None) -> None:
        """Make the cluster run: see `provider.Cluster`."""
        wanted = 1 if nodes is None else nodes
        if not 1 <= wanted <= MOST_NODES:
            message = f"A local cluster has 1 to {MOST_NODES} nodes, not {wanted}."
            raise ClusterError(message)
        require()
        with exclusive(f"cluster-{self.name}"):
            existing = self._layout()
            if existing is not None:
                problems = self._problems(existing)
                if existing.nodes < wanted:
                    problems.append(f"it has {existing.nodes} node, {wanted} are wanted")
                if not problems:
                    self._progress.say(f"cluster {self.name} is running and healthy: kept")
                    return
                self._progress.say(f"replacing cluster {self.name}: {problems[0]}")
            self._remove()
            self._create(wanted)

    def down(self) -> None:
        """Remove every trace: see `provider.Cluster`."""
        require_root()
        with exclusive(f"cluster-{self.name}"):
            self._remove()
        self._progress.say(f"cluster {self.name} is gone")

    def status(self) -> ClusterStatus:
        """Look how it is: see `provider.Cluster`."""
        layout = self._layout()
        if layout is None:
            return ClusterStatus(healthy=False, details=(f"cluster {self.name} does not exist",))
        problems = self._problems(layout)
        details = [f"cluster {self.name}: {layout.nodes} node(s), API server {layout.api_url}", *problems]
        for name, state in self._components(layout).items():
            details.append(f"{name}: {'ready' if state['ready'] else 'NOT READY'}, started {state['starts']} time(s)")
        return ClusterStatus(healthy=not problems, details=tuple(details))

    @property
    def host_address(self) -> str:
        """This machine's address for pods, where a server of a test can listen; from here, pods are reachable too."""
        return self._existing().host_address.partition("/")[0]

    # -- use -----------------------------------------------------------------------------------------------------

    def load_image(self, image: str | Path) -> None:
        """Bring an image to every node: see `provider.Cluster`."""
        if isinstance(image, Path):
            for node in self._existing().node_list():
                self._import(node, image)
            return
        recipe = BASES.get(image)
        if recipe is None:
            message = f"{image} is not an image that the local cluster can make: {', '.join(BASES)}."
            raise ClusterError(message)
        self._provide(recipe)

    def build_image(
        self, dockerfile: Path, tag: str, *, context: Path, build_args: Mapping[str, str] | None = None
    ) -> None:
        """Build an image and bring it to every node: see `provider.Cluster`."""
        self._provide(Recipe(tag, dockerfile, context, tuple(sorted((build_args or {}).items()))))

    def run_inside(self, argv: Sequence[str | Path], *, mounts: bool = False, timeout: float = 60.0) -> str:
        """Run a command in the cluster's network namespace, where pods and Services have their addresses.

        Args:
            argv: The command.
            mounts: Also enter the other namespaces, where the nodes' processes and mounts are.
            timeout: Seconds until it is killed.

        Raises:
            ClusterError: The cluster does not run, or the command failed.
        """
        return run(self.command_inside(argv, mounts=mounts), environment=self.environment, timeout=timeout)

    def command_inside(self, argv: Sequence[str | Path], *, mounts: bool = False) -> list[str]:
        """Give the command line of `run_inside`.

        Raises:
            ClusterError: The cluster does not run.
        """
        pid = box.find(self._root)
        if pid is None:
            message = f"Cluster {self.name} does not run."
            raise ClusterError(message)
        return box.inside(pid, argv, mounts=mounts)

    def signal_component(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a component such as `kubelet-node-1`: SIGSTOP makes a node fall silent, SIGCONT ends that.

        A component that is killed is started again after a second.

        Raises:
            ClusterError: There is no such component, or it does not run.
        """
        state = self._components(self._existing()).get(name)
        if state is None or state["pid"] is None:
            message = f"Cluster {self.name} has no running component {name!r}."
            raise ClusterError(message)
        self.run_inside(["kill", f"-{number.value}", str(state["pid"])], mounts=True)

    # -- inner parts ---------------------------------------------------------------------------------------------

    def _layout(self) -> Layout | None:
        try:
            facts = json.loads((self._root / "box.json").read_text())
        except FileNotFoundError:
            return None
        return Layout(self.name, self._root, int(facts["slot"]), int(facts["nodes"]))

    def _existing(self) -> Layout:
        layout = self._layout()
        if layout is None:
            message = f"Cluster {self.name} does not exist."
            raise ClusterError(message)
        return layout

    def _components(self, layout: Layout) -> dict[str, dict[str, int | bool | None]]:
        try:
            state: dict[str, dict[str, int | bool | None]] = json.loads(layout.state_file.read_text())
        except FileNotFoundError:
            return {}
        return state

    def _problems(self, layout: Layout) -> list[str]:
        if box.find(self._root) is None:
            return ["its box does not run"]
        problems = [f"{name} is not ready" for name, state in self._components(layout).items() if not state["ready"]]
        try:
            if self._ready_nodes() < layout.nodes:
                problems.append("a node is not Ready")
        except ClusterError as error:
            problems.append(f"the API server does not answer: {error}")
        return problems

    def _create(self, nodes: int) -> None:
        say = self._progress.say
        programs = build_all()
        say("programs are built")
        with exclusive("cluster-slots"):
            slot = slots.choose(self.name, slots.taken(clusters_root()), slots.routed())
            layout = Layout(self.name, self._root, slot, nodes)
            self._root.mkdir(parents=True, mode=0o755)
            facts = {
                "slot": slot,
                "nodes": nodes,
                "services": layout.services,
                "addresses": [node.address for node in layout.node_list()],
            }
            scratch = self._root / ".box.json"
            scratch.write_text(json.dumps(facts))
            scratch.rename(self._root / "box.json")
        self._write_files(layout, programs)
        box.make_control_groups([node.cgroup for node in layout.node_list()])
        pid = box.start(self._root, layout.logs / "box.log")
        box.connect(
            pid,
            interface=layout.host_interface,
            host=layout.host_address,
            inner=f"{layout.api_address}/30",
            routed=layout.routed,
        )
        say("the box is closed; etcd, API server and nodes start in it")
        for node in layout.node_list():
            self._wait_ready(layout, f"containerd-{node.name}")
        self._provide(Recipe.pause(programs["pause"]))
        self._wait_ready(layout, "kube-apiserver")
        self._apply_addons(layout)
        say("the API server answers")
        wait_for(lambda: self._all_ready(layout), what="the nodes to be Ready", timeout=_READY_TIMEOUT, interval=0.25)
        # Without it, the first pod would be refused.
        wait_for(self._has_default_account, what="the service account `default`", timeout=_READY_TIMEOUT)
        say(f"{nodes} node(s) Ready")

    def _write_files(self, layout: Layout, programs: Mapping[str, Path]) -> None:
        layout.logs.mkdir()
        layout.credentials.mkdir(mode=0o700)
        layout.programs.mkdir()
        for name, path in programs.items():
            (layout.programs / name).symlink_to(path)
        components = list(control_plane(layout, programs))
        files = control_plane_files(layout)
        for node in layout.node_list():
            components += node_components(layout, node, programs)
            files |= node_files(layout, node)
        files[layout.components_file] = dump(components)
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for path, data in credential_files(layout).items():
            path.touch(mode=0o600)
            path.write_bytes(data)

    def _apply_addons(self, layout: Layout) -> None:
        # Namespaces are the API server's own doing, a moment after it is ready.
        wait_for(self._has_system_namespace, what="the namespace kube-system", timeout=_READY_TIMEOUT)
        self.kubectl("apply", "--validate=false", "-f", "-", stdin=addons(layout))

    def _has_system_namespace(self) -> bool:
        return "kube-system" in self.kubectl("get", "namespace", "-o=name", "--request-timeout=5s")

    def _has_default_account(self) -> bool:
        listed = self.kubectl("-n", "default", "get", "serviceaccount", "-o=name", "--request-timeout=5s")
        return "serviceaccount/default" in listed.split()

    def _wait_ready(self, layout: Layout, component: str) -> None:
        def ready() -> bool:
            self._check_restarts(layout)
            return bool(self._components(layout).get(component, {}).get("ready"))

        wait_for(ready, what=component, timeout=_READY_TIMEOUT)

    def _all_ready(self, layout: Layout) -> bool:
        self._check_restarts(layout)
        return (
            all(state["ready"] for state in self._components(layout).values()) and self._ready_nodes() == layout.nodes
        )

    def _check_restarts(self, layout: Layout) -> None:
        """Give up as soon as a component has failed: at a start, none has a reason to end."""
        if box.find(self._root) is None:
            message = f"The box ended; its last lines:\n{tail((layout.logs / 'box.log').read_text())}"
            raise ClusterError(message)
        for name, state in self._components(layout).items():
            if (state["starts"] or 0) > 1:
                text = (layout.logs / f"{name}.log").read_text(errors="replace")
                message = f"{name} ended while the cluster started; its last lines:\n{tail(text)}"
                raise ClusterError(message)

    def _provide(self, recipe: Recipe) -> None:
        snapshot = Snapshot.take(recipe)
        for node in self._existing().node_list():
            mark = node.root / "images" / f"{snapshot.slug}-{snapshot.fingerprint}"
            if mark.exists() and recipe.tag in self._ctr(node, "images", "list", "-q").split():
                self._progress.say(f"{node.name} has {recipe.tag}")
                continue
            self._import(node, ImageStore(self._progress).archive(snapshot))
            mark.parent.mkdir(exist_ok=True)
            for older in mark.parent.glob(f"{snapshot.slug}-{'[0-9a-f]' * 16}"):
                older.unlink()
            mark.touch()

    def _import(self, node: NodeLayout, archive: Path) -> None:
        self._ctr(node, "images", "import", str(archive))
        self._progress.say(f"{node.name} took {archive.name}")

    def _ctr(self, node: NodeLayout, *args: str) -> str:
        argv = [str(self._root / "bin" / "ctr"), f"--address={node.containerd_socket}", "--namespace=k8s.io", *args]
        return run(argv, timeout=_IMPORT_TIMEOUT)

    def _remove(self) -> None:
        layout = self._layout()
        box.kill(self._root)
        if layout is not None:
            box.disconnect(layout.host_interface)
        box.remove_control_groups(f"pgqrs-test-{self.name}")
        box.remove_files(self._root)


__all__ = ["PAUSE_IMAGE", "LocalCluster", "clusters_root"]
