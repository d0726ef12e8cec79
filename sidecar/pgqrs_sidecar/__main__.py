"""The program `pgqrs-sidecar`: reads its environment and runs the agent.

Exit codes: 0 after SIGTERM, 1 when a part of it failed, 2 when the environment is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from pgqrs import errors
from pgqrs_sidecar import logs
from pgqrs_sidecar.agent import Agent
from pgqrs_sidecar.settings import Settings

_log = logging.getLogger(__name__)


async def _run(settings: Settings) -> int:
    return await Agent(settings).run()


def main() -> int:
    """Run the sidecar until it is told to end; give the exit code."""
    try:
        settings = Settings.from_env(os.environ)
    except errors.ConfigurationError as error:
        logs.configure()
        _log.critical("the environment is wrong", extra={"error": str(error)})
        return 2
    logs.configure(settings)
    try:
        return asyncio.run(_run(settings))
    except errors.ConfigurationError as error:
        _log.critical("the environment is wrong", extra={"error": str(error)})
        return 2
    except OSError as error:
        _log.critical("a port cannot be opened", extra={"error": str(error)})
        return 1


if __name__ == "__main__":
    sys.exit(main())
