"""Programs that only note how they were called, for what this machine does not have or a test must not touch."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM = """\
#!/usr/bin/env python3
import json, os, sys
stdin = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
with open({calls!r}, "a") as file:
    file.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
with open({stdins!r}, "a") as file:
    file.write(stdin)
for start, output, code in json.load(open({answers!r})):
    if sys.argv[1 : 1 + len(start)] == start:
        print(output)
        sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class FakePrograms:
    """A folder for PATH with programs that answer what they are told and note their calls."""

    folder: Path

    def add(self, name: str, answers: dict[str, tuple[str, int]] | None = None) -> None:
        """Put a program there.

        Args:
            name: Its name.
            answers: By the first words of its arguments, what it prints and its exit code; else silence and 0.
        """
        known = [(shlex.split(start), output, code) for start, (output, code) in (answers or {}).items()]
        answers_file = self.folder / f"{name}.answers"
        answers_file.write_text(json.dumps(known))
        program = self.folder / name
        program.write_text(
            _PROGRAM.format(
                name=name,
                calls=str(self.folder / "calls"),
                stdins=str(self.folder / "stdins"),
                answers=str(answers_file),
            )
        )
        program.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        """Every call so far: the program's name and its arguments."""
        calls = self.folder / "calls"
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    @property
    def stdin(self) -> str:
        """All that the programs read."""
        return (self.folder / "stdins").read_text()
