"""Makes container images with buildah, without an image registry: once for each content of what they are made of.

The project's Dockerfiles start from images that Docker Hub has. Here, stand-ins of the same names are put together from
Debian's packages first. Everything is kept below the cache folder; the machine's own images are never touched. What a
build sees of its context is a copy of just the files that its Dockerfile names, so what decides about building again is
exactly what goes in.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tests.support.cluster.commands import run
from tests.support.cluster.errors import ClusterError, MissingPrerequisiteError
from tests.support.cluster.local.node import PAUSE_IMAGE
from tests.support.cluster.programs import cache_root, exclusive
from tests.support.cluster.secrets import build_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.cluster.progress import Progress

_BASES_ROOT = Path(__file__).with_name("bases")
_BUILD_TIMEOUT = 900.0
#: How many contents of one image are kept: enough for going back and forth between two checkouts.
_KEPT = 3
_IGNORE_FILES = frozenset({".dockerignore", ".containerignore"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is made of."""

    tag: str
    dockerfile: Path
    context: Path
    build_args: tuple[tuple[str, str], ...] = ()
    #: A program of the context that first makes more files there.
    script: str | None = None

    @classmethod
    def pause(cls, program: Path) -> Recipe:
        """Give the image that holds a pod's namespaces open."""
        return cls(PAUSE_IMAGE, _BASES_ROOT / "pause" / "Dockerfile", program.parent)


def _base(tag: str, folder: str, script: str | None = None) -> Recipe:
    return Recipe(tag, _BASES_ROOT / folder / "Dockerfile", _BASES_ROOT / folder, script=script)


#: The images that can be had without a registry, by the names that a registry knows them by.
BASES: dict[str, Recipe] = {
    recipe.tag: recipe
    for recipe in (
        _base("docker.io/library/debian:bookworm-slim", "debian", script="make-root"),
        _base("docker.io/library/python:3.11-slim-bookworm", "python"),
        _base("docker.io/library/postgres:15-bookworm", "postgres"),
    )
}


def instructions(dockerfile: str) -> Iterator[tuple[str, list[str]]]:
    """Give each instruction of a Dockerfile with its words; comments and line ends are resolved, variables are not."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if not name:
            continue
        try:
            words = json.loads(rest) if rest.lstrip().startswith("[") else rest.split()
        except json.JSONDecodeError:
            words = rest.split()
        yield name.upper(), [str(word) for word in words]


def bases_of(recipe: Recipe) -> tuple[str, ...]:
    """Give the images that the recipe starts from, but for its own stages and `scratch`.

    Raises:
        ClusterError: It needs an image that cannot be made here.
    """
    arguments = dict(recipe.build_args)
    stages = {"scratch"}
    found: list[str] = []
    for name, words in instructions(recipe.dockerfile.read_text()):
        if name == "ARG" and not found:
            key, _, default = words[0].partition("=")
            arguments.setdefault(key, default.strip("\"'"))
        elif name == "FROM":
            plain = [word for word in words if not word.startswith("--")]
            image = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: arguments.get(match[1] or match[2], ""), plain[0])
            if image not in stages:
                found.append(image)
            if len(plain) == 3 and plain[1].upper() == "AS":
                stages.add(plain[2])
    return tuple(dict.fromkeys(found))


def sources_of(recipe: Recipe) -> tuple[str, ...]:
    """Give the paths, relative to the context, that the recipe copies from there; they may be patterns."""
    found: list[str] = []
    for name, words in instructions(recipe.dockerfile.read_text()):
        if name in {"COPY", "ADD"} and not any(word.startswith("--from=") for word in words):
            plain = [word for word in words if not word.startswith("--")]
            found += [str(PurePosixPath(word)).lstrip("/") or "." for word in plain[:-1]]
    return tuple(dict.fromkeys(found))


def files_of(recipe: Recipe) -> list[str]:
    """Give the files of the context that the build sees, sorted; what git ignores is not among them."""
    # A script's context is its own small folder, all of which counts.
    sources = ["."] if recipe.script else sources_of(recipe)

    def wanted(path: str) -> bool:
        parts = PurePosixPath(path).parts
        if path in _IGNORE_FILES:
            return True
        prefixes = {"/".join(parts[:length]) for length in range(1, len(parts) + 1)}
        return any(
            source == "." or any(fnmatch.fnmatchcase(prefix, source) for prefix in prefixes) for source in sources
        )

    return sorted(path for path in _listed(recipe.context) if wanted(path) and (recipe.context / path).is_file())


def _listed(folder: Path) -> Iterable[str]:
    try:
        listing = run(["git", "-C", folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    except (ClusterError, MissingPrerequisiteError):
        listing = ""
    # A folder that is no checkout, or that git ignores as a whole, counts as it is.
    return [path for path in listing.split("\0") if path] or [
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if "__pycache__" not in path.parts
    ]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that goes into an image, as it was at one moment: somebody may edit the files while it is built."""

    recipe: Recipe
    dockerfile: bytes
    #: Name in the context, permissions and content.
    files: tuple[tuple[str, int, bytes], ...]
    bases: tuple[Snapshot, ...]

    @classmethod
    def take(cls, recipe: Recipe) -> Snapshot:
        """Read what the recipe names.

        Raises:
            ClusterError: It starts from an image that cannot be made here.
        """
        paths = [(name, recipe.context / name) for name in files_of(recipe)]
        return cls(
            recipe,
            recipe.dockerfile.read_bytes(),
            tuple((name, 0o755 if path.stat().st_mode & 0o100 else 0o644, path.read_bytes()) for name, path in paths),
            tuple(cls.take(_base_recipe(image, recipe)) for image in bases_of(recipe)),
        )

    @property
    def fingerprint(self) -> str:
        """A hash of all of it."""
        digest = hashlib.sha256()
        words: list[str | bytes] = [self.recipe.tag, self.recipe.script or "", self.dockerfile]
        words += [word for pair in self.recipe.build_args for word in pair]
        words += [word for name, mode, data in self.files for word in (name, str(mode), data)]
        words += [base.fingerprint for base in self.bases]
        for word in words:
            data = word.encode() if isinstance(word, str) else word
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()[:16]

    @property
    def slug(self) -> str:
        """The image's name, fit for a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.recipe.tag.lower()).strip("-")

    @property
    def stored_as(self) -> str:
        """The name that only this content has in the store; the image's own name moves on."""
        return f"localhost/{self.slug}:{self.fingerprint}"

    def write(self, context: Path) -> None:
        """Write the files of the context into a new folder."""
        context.mkdir(parents=True)
        for name, mode, data in self.files:
            copy = context / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
            copy.chmod(mode)


class ImageStore:
    """The images of this machine's cache; each is built at most once for each fingerprint."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._storage = cache_root() / "containers"
        self._archives = cache_root() / "images"

    def archive(self, snapshot: Snapshot) -> Path:
        """Give the image as an archive, as `docker save` writes it, built now where it was not built before.

        Raises:
            ClusterError: The build failed; the message ends with its last lines.
        """
        target = self._archives / f"{snapshot.slug}-{snapshot.fingerprint}.tar"
        with exclusive("images"):
            if target.exists():
                target.touch()
                return target
            self._archives.mkdir(parents=True, exist_ok=True)
            for abandoned in self._archives.glob(".build-*"):
                shutil.rmtree(abandoned)
            with self._scratch() as scratch:
                self._build(snapshot, scratch)
                tag = snapshot.recipe.tag
                partial = scratch / target.name
                self._buildah("push", "--quiet", tag, f"docker-archive:{partial}:{tag}")
                partial.rename(target)
            self._forget_old(snapshot)
        return target

    # -- inner parts ---------------------------------------------------------------------------------------------

    def _build(self, snapshot: Snapshot, scratch: Path) -> None:
        """Have the image in the store under its name."""
        recipe = snapshot.recipe
        if self._has(snapshot.stored_as):
            # Another checkout may have given the name to another content since.
            self._buildah("tag", snapshot.stored_as, recipe.tag)
            return
        for base in snapshot.bases:
            self._build(base, scratch)
        self._progress.say(f"building {recipe.tag}")
        folder = scratch / snapshot.fingerprint
        context = folder / "context"
        snapshot.write(context)
        if recipe.script:
            run([*_ALONE, f"./{recipe.script}"], directory=context, timeout=_BUILD_TIMEOUT)
        (folder / "Dockerfile").write_bytes(snapshot.dockerfile)
        self._buildah(
            *("build", "--isolation=chroot", "--layers", "--pull=never", *build_secrets(folder)),
            *(word for name, value in recipe.build_args for word in ("--build-arg", f"{name}={value}")),
            *("--file", str(folder / "Dockerfile"), "--tag", recipe.tag, "--tag", snapshot.stored_as, str(context)),
        )

    def _forget_old(self, snapshot: Snapshot) -> None:
        pattern = f"{snapshot.slug}-{'[0-9a-f]' * 16}.tar"
        newest_first = sorted(self._archives.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest_first[_KEPT:]:
            stored_as = f"localhost/{path.stem.removesuffix(path.stem[-17:])}:{path.stem[-16:]}"
            if self._has(stored_as):
                self._buildah("rmi", stored_as)
            path.unlink()

    def _has(self, stored_as: str) -> bool:
        return bool(self._buildah("images", "--quiet", "--filter", f"reference={stored_as}").strip())

    def _buildah(self, *arguments: str) -> str:
        with self._scratch() as runtime:
            storage = [f"--root={self._storage}", f"--runroot={runtime}", "--storage-driver=overlay"]
            return run([*_ALONE, "buildah", *storage, *arguments], timeout=_BUILD_TIMEOUT)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        # Beside the archives, so that a finished one is moved, not copied.
        with tempfile.TemporaryDirectory(prefix=".build-", dir=self._archives) as scratch:
            yield Path(scratch)


#: In namespaces of their own, a command's mounts and processes end with it, also when it is killed.
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")


def _base_recipe(image: str, recipe: Recipe) -> Recipe:
    base = BASES.get(image)
    if base is None:
        message = (
            f"{recipe.dockerfile} starts from {image}, which cannot be made without a registry; possible are "
            f"{', '.join(BASES)}."
        )
        raise ClusterError(message)
    return base


__all__ = ["BASES", "ImageStore", "Recipe", "Snapshot", "bases_of", "files_of", "instructions", "sources_of"]
