"""Aims that are a number which must not be exceeded, for the benches of the sidecar and the operator."""

from __future__ import annotations

from tests.bench.aims import Verdict


def at_most(what: str, aim: str, measured: float | None, most: float, text: str) -> Verdict:
    """Compare a number with the most that it may be; `text` is how it is shown."""
    if measured is None:
        return Verdict(what, aim, "", None)
    return Verdict(what, aim, text.format(measured), measured <= most)
