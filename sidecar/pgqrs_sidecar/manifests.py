"""Reads and writes the YAML of Kubernetes manifests so that nothing changes its meaning on the way."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable


class NoYamlError(Exception):
    """A text is no YAML; the message says where, and quotes nothing of it."""


def load(text: str) -> list[Any]:
    """Read the documents of a YAML text as `kubectl` does; empty ones are left out.

    Raises:
        NoYamlError: it is no YAML.
    """
    try:
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        message = f"The input is no YAML ({line}{error.problem})."
        raise NoYamlError(message) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = f"The input is no YAML ({type(error).__name__})."
        raise NoYamlError(message) from error


def dump(documents: Iterable[Any]) -> str:
    """Write documents as YAML."""
    listed = list(documents)
    text: str = yaml.dump_all(
        listed,
        Dumper=_Dumper,
        allow_unicode=True,
        default_flow_style=False,
        explicit_start=len(listed) > 1,
        sort_keys=False,
        width=sys.maxsize,
    )
    return text


class _Loader(yaml.SafeLoader):
    """Takes for numbers and dates what `kubectl` does: `1e3` is a number, `12:30` and `2026-01-01` are texts."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - filled below, for this class alone


class _Dumper(yaml.SafeDumper):
    """Writes lists indented, long texts as blocks, nothing as a reference, and quotes what any reader might misread."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().increase_indent(flow, indentless=False)


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_INT = re.compile(r"[-+]?(0b[01_]+|0[0-7_]*|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_BOOL = re.compile(r"(yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")
_DIGITS = list("-+0123456789")
for _tag, _pattern, _first in (
    ("bool", _BOOL, list("yYnNtTfFoO")),
    ("int", _INT, _DIGITS),
    ("float", _FLOAT, [*_DIGITS, "."]),
    ("merge", re.compile(r"<<$"), ["<"]),
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, [*_DIGITS, "."])
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?0o[0-7]+$"), _DIGITS)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))
#: What some readers take for the end of a line and make another one of; between double quotes it is escaped.
_OTHER_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _OTHER_LINE_ENDS.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represented)
