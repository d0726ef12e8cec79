from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster.errors import ClusterError
from tests.support.cluster.local.images import (
    BASES,
    Recipe,
    Snapshot,
    bases_of,
    files_of,
    instructions,
    sources_of,
)

_PYTHON = "docker.io/library/python:3.11-slim-bookworm"
_CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """An image of three files, in a folder that has more."""
    context = tmp_path / "context"
    (context / "code").mkdir(parents=True)
    (context / "code" / "main.py").write_text("print(1)")
    (context / "code" / "help.py").write_text("print(2)")
    (context / "README.md").write_text("read me")
    (context / "notes.txt").write_text("not copied")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {_PYTHON}\nCOPY README.md ./\nCOPY code code\n")
    return Recipe("docker.io/library/thing:1", dockerfile, context)


def _rewritten(recipe: Recipe, text: str) -> Recipe:
    recipe.dockerfile.write_text(text)
    return recipe


def test_instructions_know_comments_line_ends_and_lists() -> None:
    text = '# a comment\nFROM a AS b\n\nRUN one \\\n    # in between\n    && two\ncopy ["x y", "z"]\n'
    assert list(instructions(text)) == [
        ("FROM", ["a", "AS", "b"]),
        ("RUN", ["one", "&&", "two"]),
        ("COPY", ["x y", "z"]),
    ]


def test_an_image_starts_from_others_but_not_from_its_own_stages(recipe: Recipe) -> None:
    text = f"ARG BASE={_PYTHON}\nFROM ${{BASE}} AS build\nFROM build AS more\nFROM --platform=x scratch\nFROM other:1\n"
    assert bases_of(_rewritten(recipe, text)) == (_PYTHON, "other:1")


def test_only_what_is_copied_from_the_context_counts(recipe: Recipe) -> None:
    text = f"FROM {_PYTHON} AS build\nCOPY --chmod=755 a ./b/* /to/\nADD c /to\nCOPY --from=build /opt /opt\n"
    assert sources_of(_rewritten(recipe, text)) == ("a", "b/*", "c")


def test_files_are_those_that_the_recipe_names(recipe: Recipe) -> None:
    assert files_of(recipe) == ["README.md", "code/help.py", "code/main.py"]
    assert files_of(_rewritten(recipe, f"FROM {_PYTHON}\nCOPY *.md code/m* ./\n")) == ["README.md", "code/main.py"]
    assert "notes.txt" in files_of(_rewritten(recipe, f"FROM {_PYTHON}\nCOPY . .\n"))


def test_what_git_ignores_is_not_seen(recipe: Recipe) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", recipe.context, *words], check=True, capture_output=True)

    git("init")
    (recipe.context / ".gitignore").write_text("*.log\n")
    (recipe.context / "code" / "noise.log").touch()
    git("add", "code/main.py", "code/help.py")
    (recipe.context / "code" / "help.py").unlink()
    (recipe.context / "code" / "new.py").touch()
    assert files_of(recipe) == ["README.md", "code/main.py", "code/new.py"]


def test_a_fingerprint_is_of_what_goes_in_and_of_nothing_else(recipe: Recipe) -> None:
    before = Snapshot.take(recipe).fingerprint
    (recipe.context / "notes.txt").write_text("changed")
    (recipe.context / "code" / "main.py").touch()
    assert Snapshot.take(recipe).fingerprint == before
    fingerprints = {before}
    (recipe.context / "code" / "main.py").write_text("print(3)")
    fingerprints.add(Snapshot.take(recipe).fingerprint)
    (recipe.context / "code" / "main.py").chmod(0o755)
    fingerprints.add(Snapshot.take(recipe).fingerprint)
    (recipe.context / "code" / "main.py").rename(recipe.context / "code" / "other.py")
    fingerprints.add(Snapshot.take(recipe).fingerprint)
    with_argument = Recipe(recipe.tag, recipe.dockerfile, recipe.context, (("VERSION", "1"),))
    fingerprints.add(Snapshot.take(with_argument).fingerprint)
    recipe.dockerfile.write_text(recipe.dockerfile.read_text() + "USER 1\n")
    fingerprints.add(Snapshot.take(recipe).fingerprint)
    assert len(fingerprints) == 6


def test_a_fingerprint_changes_with_the_base(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = Snapshot.take(recipe).fingerprint
    folder = shutil.copytree(BASES[_PYTHON].context, tmp_path / "base")
    with (folder / "Dockerfile").open("a") as file:
        file.write("ENV NEW=1\n")
    monkeypatch.setitem(BASES, _PYTHON, Recipe(_PYTHON, folder / "Dockerfile", folder))
    assert Snapshot.take(recipe).fingerprint != before


def test_a_snapshot_does_not_follow_later_changes(recipe: Recipe, tmp_path: Path) -> None:
    snapshot = Snapshot.take(recipe)
    (recipe.context / "code" / "main.py").write_text("print(3)")
    snapshot.write(tmp_path / "written")
    assert (tmp_path / "written" / "code" / "main.py").read_text() == "print(1)"


def test_a_base_that_cannot_be_made_is_named(recipe: Recipe) -> None:
    with pytest.raises(ClusterError, match=r"starts from docker\.io/library/node:1, which cannot be made"):
        Snapshot.take(_rewritten(recipe, "FROM docker.io/library/node:1\n"))


@pytest.mark.parametrize(
    "dockerfile", sorted(_CHECKOUT.glob("deploy/**/Dockerfile")), ids=lambda path: path.parent.name
)
def test_the_projects_images_can_be_made_here(dockerfile: Path) -> None:
    snapshot = Snapshot.take(Recipe("docker.io/library/any:1", dockerfile, _CHECKOUT))
    assert snapshot.files
    assert not any("__pycache__" in name for name, _, _ in snapshot.files)
