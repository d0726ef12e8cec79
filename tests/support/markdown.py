"""Takes the blocks of code out of a Markdown page, so that tests run what a reader would copy.

The page that the system was first described by has broken fences, which are read as a reader would read them:
- a closing fence that code follows at once, in the same indentation, opens a block of the same language (run-on);
- code behind a closing fence, in its line, is the first line of such a block;
- prose behind a closing fence (`!!! note`) ends the block like a plain fence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<rest>.*)$")
_HEADING = re.compile(r"^#+ (?P<title>.+)$")


@dataclass
class Block:
    """One block of code, and where it stands."""

    language: str
    heading: str
    #: The line of its first line of code, counted from 1.
    line: int
    indent: str
    lines: list[str] = field(default_factory=list)

    @property
    def code(self) -> str:
        """The code as a reader would copy it."""
        return dedent("\n".join(self.lines)) + "\n"


def blocks(page: Path, language: str) -> list[Block]:
    """Give the blocks of one language in the order of the page."""
    found: list[Block] = []
    heading = ""
    current: Block | None = None
    #: A block that was just closed, if code in the next line would go on with it.
    closed: Block | None = None
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence is None:
            if current is None and closed is not None and closed.indent and line.startswith(f"{closed.indent}"):
                current = _open(found, closed.language, heading, number, closed.indent)
            if current is not None:
                current.lines.append(line)
            elif title := _HEADING.match(line):
                heading = title["title"]
            closed = None
        elif current is None:
            current = _open(found, fence["rest"].strip(), heading, number + 1, fence["indent"])
        else:
            closed, current = current, None
            rest = fence["rest"].strip()
            if rest.startswith("!!!"):
                closed = None
            elif rest:
                current = _open(found, closed.language, heading, number, closed.indent)
                current.lines.append(closed.indent + rest)
    return [block for block in found if block.language == language]


def _open(found: list[Block], language: str, heading: str, line: int, indent: str) -> Block:
    block = Block(language, heading, line, indent)
    found.append(block)
    return block
