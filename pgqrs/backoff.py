"""How long a message that failed waits until it is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

from pgqrs import arguments, errors
from pgqrs.names import shown

_MAX_FACTOR = 1_000_000


def _check(name: str, value: float, least: float, most: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        message = f"The {name} of a back-off is {shown(value)}; it is a number from {least} to {most:,}."
        raise errors.ValidationError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays that grow from failure to failure, each shortened at random so that what failed together comes apart.

    Example:
        ```python
        await consumer.run(send_email, backoff=pgqrs.Backoff(first=timedelta(seconds=10), most=timedelta(hours=6)))
        ```
    """

    #: The delay after the first failure.
    first: timedelta = timedelta(seconds=1)
    #: By what each further delay is longer than the one before.
    factor: float = 4.0
    #: No delay is longer than this.
    most: timedelta = timedelta(hours=1)
    #: The share of a delay that chance may take away, 0 to 1.
    jitter: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        arguments.seconds("first delay", self.first)
        arguments.seconds("longest delay", self.most)
        _check("factor", self.factor, 1, _MAX_FACTOR)
        _check("jitter", self.jitter, 0, 1)

    def seconds(self, attempt: int) -> float:
        """Give the delay after this attempt failed; the first one is 1."""
        first, most = self.first.total_seconds(), self.most.total_seconds()
        try:
            # A power of a whole number may have millions of digits; that of a float has an end.
            delay = min(first * float(self.factor) ** (attempt - 1), most)
        except OverflowError:
            delay = most if first else 0.0
        return delay * random.uniform(1 - self.jitter, 1)  # noqa: S311 - spreads retries, hides nothing
