"""The program `pgqrs-sidecar`: without an argument the agent of a pod, with `render` the injector's change on paper.

Exit codes: 0 after SIGTERM, 1 when a part of it failed, 2 when the environment or the arguments are wrong.
"""

from __future__ import annotations

import os
import signal
import sys

#: Where OpenSSL looks for certificate authorities, instead of where it was built to.
_AUTHORITIES = "SSL_CERT_FILE"
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
# The image starts us with it blocked, so that one that came before this line is not lost but comes now.
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _run_agent() -> int:
    # aiohttp reads all certificate authorities of the machine at its import, for a client that we don't use: 2 MB.
    authorities = os.environ.get(_AUTHORITIES)
    os.environ[_AUTHORITIES] = os.devnull
    from pgqrs_sidecar import agent  # noqa: PLC0415 - see above

    # The connection to PostgreSQL may need them.
    if authorities is None:
        del os.environ[_AUTHORITIES]
    else:
        os.environ[_AUTHORITIES] = authorities
    return agent.main()


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; give the exit code.

    Args:
        argv: the arguments, those of the process if not given.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments:
        return _run_agent()
    if arguments[0] == "render":
        # A command that is interrupted has not done its work.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from pgqrs_sidecar import render  # noqa: PLC0415 - the agent does not pay for it

        return render.main(arguments[1:])
    sys.stderr.write(_USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main())
