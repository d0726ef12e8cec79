"""The `pgqrs` command: the library's verbs for people and scripts. It needs the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; without the extra `cli`, say how to get it."""
    try:
        from pgqrs.cli.commands import pgqrs  # noqa: PLC0415 - click is an extra
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit("The pgqrs command needs the extra cli: pip install 'pgqrs-kubernetes[cli]'")
    pgqrs()
