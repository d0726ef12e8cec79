"""The program `pgqrs-sidecar`: without an argument the agent of a pod, with `render` the injector's change on paper.

Exit codes: 0 after SIGTERM, 1 when a part of it failed, 2 when the environment or the arguments are wrong.
"""

from __future__ import annotations

import os
import signal
import sys

_USAGE = """\
usage: pgqrs-sidecar                  run the agent; all it needs to know stands in the environment (PGQRS_*)
       pgqrs-sidecar render [OPTION …] < pod.yaml    print what the injector would make of it (render --help)
"""


def _end_at_once(_number: int, _frame: object) -> None:
    os._exit(0)


# As the first process of a container we get no SIGTERM that we have no handler for, and a pod that is deleted while it
# starts would then stay for its whole grace period. So this comes before everything that takes time to import; nothing
# is registered yet that would have to be taken back. The agent puts its own handler in the place of this one.
signal.signal(signal.SIGTERM, _end_at_once)


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; give the exit code.

    Args:
        argv: the arguments, those of the process if not given.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments:
        from pgqrs_sidecar import agent  # noqa: PLC0415 - see above

        return agent.main()
    if arguments[0] == "render":
        # A command that is interrupted has not done its work.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from pgqrs_sidecar import render  # noqa: PLC0415 - the agent does not pay for it

        return render.main(arguments[1:])
    sys.stderr.write(_USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main())
