"""An operator as a process of its own, against the API server of a test.

Its election is quicker than the real one's. kopf's watches, which ask for more of an API server than most tests' one
has, are left out: the store is filled by the lists alone. With `watches` they are there; with `watches-end` they end at
once. With `hangs` it never renews its Lease and never notices.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

import kopf

from pgqrs_operator import __main__ as program
from pgqrs_operator import connection, listings, operation
from pgqrs_operator.leadership import Leadership, Timing

if TYPE_CHECKING:
    from typing import NoReturn

#: Short, and yet longer than a busy machine holds a process up.
TIMING = Timing(duration=6.0, deadline=4.0, interval=0.5)
WORDS = frozenset(sys.argv[1:])


async def _for_ever(*_: object) -> NoReturn:
    while True:
        await asyncio.sleep(3600)


async def _without_watches(*, ready_flag: asyncio.Event, **_: Any) -> None:
    ready_flag.set()
    if "watches-end" not in WORDS:
        await _for_ever()


def main() -> int:
    """Run it; give the exit status."""
    # The server knows by it who asks.
    connection._USER_AGENT = os.environ["PGQRS_POD_NAME"]  # noqa: SLF001
    listings._INTERVAL_SECONDS = 0.2  # noqa: SLF001
    if "watches" not in WORDS:
        kopf.operator = _without_watches  # type: ignore[assignment]
    setattr(operation, "Leadership", functools.partial(Leadership, timing=TIMING))  # noqa: B010 - mypy takes it for a class
    if "hangs" in WORDS:
        Leadership.keep = _for_ever  # type: ignore[method-assign, assignment]
    sys.argv = ["pgqrs-operator", "run"]
    return program.main()


if __name__ == "__main__":
    sys.exit(main())
