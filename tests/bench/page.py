"""`docs/performance.md`: one page, whose parts are written by commands of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: The commands in the order of their parts; the first part has no mark.
_COMMANDS = ("bench", "bench-sidecar", "bench-operator")
_MARK = re.compile(r"<!-- from here on written by make ([a-z-]+) -->\n+")


def write_part(page: Path, command: str, text: str) -> None:
    """Put the part of one command into the page; the others stay as they are.

    Args:
        page: the file, which need not be there.
        command: the target of `make` that writes the part.
        text: Markdown.
    """
    first, *rest = _MARK.split(page.read_text()) if page.exists() else ("",)
    parts = {_COMMANDS[0]: first, **dict(zip(rest[::2], rest[1::2], strict=True)), command: text}
    written = [
        part if name == _COMMANDS[0] else f"<!-- from here on written by make {name} -->\n\n{part}"
        for name in _COMMANDS
        if (part := parts.get(name, "").strip())
    ]
    page.write_text("\n\n".join(written) + "\n")
