"""What apps may rely on: exactly the public names, each of them documented and typed."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import TYPE_CHECKING

import pytest

import pgqrs
from pgqrs import testing

if TYPE_CHECKING:
    from types import ModuleType

_ROOT = Path(__file__).parents[2]
_USAGE = Path(__file__).parent / "typed_usage.py"


@pytest.mark.parametrize("module", [pgqrs, testing])
def test_the_public_names_are_exactly_those_that_are_declared(module: ModuleType) -> None:
    found = {name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert found == set(module.__all__)


@pytest.mark.parametrize("module", [pgqrs, testing])
def test_every_public_method_is_documented_and_typed(module: ModuleType) -> None:
    for name in module.__all__:
        value = getattr(module, name)
        functions = (
            inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else [(name, inspect.unwrap(value))]
        )
        assert inspect.getdoc(value), name
        for function_name, function in functions:
            if function_name.startswith("_") or not function.__module__.startswith("pgqrs"):
                continue
            assert inspect.getdoc(function), f"{name}.{function_name}"
            signature = inspect.signature(function)
            assert signature.return_annotation is not inspect.Signature.empty, f"{name}.{function_name}"
            for parameter in signature.parameters.values():
                typed = parameter.annotation is not inspect.Parameter.empty
                assert typed or parameter.name in ("self", "cls"), f"{name}.{function_name}({parameter.name})"


@pytest.mark.parametrize(
    "value",
    [getattr(module, name) for module in (pgqrs, testing) for name in module.__all__],
    ids=lambda value: value.__name__,
)
def test_every_public_name_has_an_example_that_compiles(value: object) -> None:
    text = inspect.getdoc(value) or ""
    _, _, example = text.partition("Example:\n")
    code = dedent(example.partition("```python\n")[2].partition("```")[0].rstrip(" "))
    assert code
    # In a function, because most examples await something.
    compile("async def example():\n" + indent(code, "    "), "example", "exec")


def test_pyright_agrees_with_how_the_types_are_used(tmp_path: Path) -> None:
    config = tmp_path / "pyrightconfig.json"
    config.write_text(
        json.dumps({"include": [str(_USAGE)], "extraPaths": [str(_ROOT)], "typeCheckingMode": "strict"}), "utf-8"
    )
    result = subprocess.run(
        [Path(sys.executable).parent / "basedpyright", "--project", config, "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 errors, 0 warnings" in result.stdout
