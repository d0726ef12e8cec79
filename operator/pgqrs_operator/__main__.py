"""The program `pgqrs-operator`: one image, several processes.

    pgqrs-operator run                  reconcile resources, watch pods, keep the webhook's certificate
    pgqrs-operator inject               answer the admission webhook
    pgqrs-operator release              take our finalizers off everything, before an uninstallation
    pgqrs-operator crds [FOLDER ...]    print the CRDs, or write them into folders

Exit codes: 0 after SIGTERM, 1 when a part of it failed, 2 when it was called or set up wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import sys
from pathlib import Path

from pgqrs_operator import logs
from pgqrs_operator.settings import Settings, SettingsError

#: So many allocations, collections of the young and of the middle generation before the next older one is collected.
_GARBAGE_COLLECTION = (50_000, 20, 10)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pgqrs-operator", description="pgqrs for Kubernetes.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="reconcile resources, watch pods, keep the webhook's certificate")
    commands.add_parser("inject", help="answer the admission webhook")
    commands.add_parser("release", help="take our finalizers off everything, before an uninstallation")
    crds = commands.add_parser("crds", help="print the CRDs, or write them into folders")
    crds.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    return parser


def _crds(folders: list[Path]) -> int:
    from pgqrs_operator.resources.crds import definitions, render  # noqa: PLC0415 - only this command needs YAML

    rendered = {name: render(definition) for name, definition in definitions().items()}
    for folder in folders:
        for name, text in rendered.items():
            (folder / name).write_text(text)
    if not folders:
        sys.stdout.write("---\n".join(rendered.values()))
    return 0


def main() -> int:
    """Run one of the commands; give the exit code."""
    arguments = _parser().parse_args()
    if arguments.command == "crds":
        return _crds(arguments.folders)
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"pgqrs-operator: {error}\n")
        return 2
    logs.configure(settings.log_level)
    # Each command loads only what it needs: the injector is small without kopf, the operator without the webhook.
    if arguments.command == "inject":
        from pgqrs_operator.injector import server  # noqa: PLC0415

        return server.run([])
    if arguments.command == "release":
        from pgqrs_operator.release import release  # noqa: PLC0415

        return asyncio.run(release(settings))
    from pgqrs_operator.operation import operate  # noqa: PLC0415

    # Whatever is known of ten thousand objects lives long: looking for garbage in it after each few hundred allocations
    # took half of the CPU (seen).
    gc.set_threshold(*_GARBAGE_COLLECTION)
    try:
        return asyncio.run(operate(settings))
    except OSError as error:
        logging.getLogger(__name__).critical("a port cannot be opened", extra={"error": str(error)})
        return 1


if __name__ == "__main__":
    sys.exit(main())
