"""How many messages a worker leases ahead of its handlers, and from where in the queue.

Ahead of handlers that take a millisecond there must be enough to keep them busy during a round trip; ahead of handlers
that take a minute nothing, because somebody else could begin with it at once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

#: How much work is leased ahead, in seconds; less makes round trips the larger part of the work of fast handlers.
_AHEAD_SECONDS = 0.02
#: The most messages that are leased at a time.
MAX_FETCH = 500
#: A round trip that took longer than this, and this for each message, went through traces of what was leased before.
_SLOW_SECONDS = 0.003
_SLOW_SECONDS_EACH = 0.0002
#: Where that is so, the head of the queue is looked at so rarely that it takes this part of the time, but this often.
_SHARE = 200
_WHOLE_SECONDS = 5.0
#: How far before the last message seen the next scan begins: transactions commit in another order than they begin.
_MARGIN = timedelta(seconds=1)


class Prefetch:
    """Learns from round trips how fast handlers begin messages."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._took = 0.0
        #: Messages whose handlers began since the last round trip.
        self.begun = 0
        self._since: float | None = None

    def learn(self, began: float, ended: float) -> None:
        """Take the times of a round trip, in seconds of the event loop's clock."""
        took = ended - began
        self._took = took if not self._took else (self._took + took) / 2
        if self._since is not None and ended > self._since:
            rate = self.begun / (ended - self._since)
            # Quick to believe in fast handlers, or a flood would begin with a trickle.
            self._rate = max(rate, (self._rate + rate) / 2)
        self._since, self.begun = ended, 0

    @property
    def ahead(self) -> int:
        """How many messages handlers begin in a while, or during two round trips where these take longer."""
        return min(int(self._rate * max(2 * self._took, _AHEAD_SECONDS)), MAX_FETCH)


class Cursor:
    """Where the next scan of the queue begins.

    Messages are leased in the order of `vt`, and move to its other end with that. While a snapshot somewhere in the
    database is older than that, PostgreSQL cannot clean away where they were, and a scan from the head goes through all
    of it. Then most scans begin where the last one ended. What comes to the head again later, because it was released
    or committed late, is found by those that look at the head all the same.
    """

    def __init__(self) -> None:
        self._seen: datetime | None = None
        self._whole_at = 0.0

    def begin(self, now: float) -> datetime | None:
        """Give where to begin, None for the head; times are seconds of the event loop's clock."""
        if self._seen is None or now >= self._whole_at:
            return None
        return self._seen - _MARGIN

    def learn(self, *, whole: bool, full: bool, ended: float, took: float, count: int, seen: datetime | None) -> None:
        """Take what a scan gave.

        Args:
            whole: whether it began at the head.
            full: whether it gave as many messages as were asked for, so that there may be more behind them.
            ended: when, in seconds of the event loop's clock.
            took: seconds.
            count: how many messages it gave.
            seen: the `vt` that the last of them had.
        """
        # Where the head has more than one scan gives, the next one goes on behind that.
        if seen is not None and (self._seen is None or seen > self._seen or (whole and full)):
            self._seen = seen
        if whole:
            slow = took > _SLOW_SECONDS + _SLOW_SECONDS_EACH * count
            self._whole_at = ended + min(_SHARE * took, _WHOLE_SECONDS) if slow else 0.0
