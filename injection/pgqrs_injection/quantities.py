"""Kubernetes quantities (`100m`, `64Mi`): which texts are some, and how much they mean."""

from __future__ import annotations

import re
from decimal import Decimal

_LONGEST = 32
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?")
_POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def amount(text: str) -> Decimal:
    """Give what a quantity means, in units: cores, bytes.

    Raises:
        ValueError: it is no quantity, or a negative one.
    """
    found = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        message = "no quantity"
        raise ValueError(message)
    number, suffix = Decimal(found[1]), found[2] or ""
    if suffix in _BINARY:
        return number * Decimal(1024) ** _BINARY[suffix]
    if suffix in _POWERS:
        return number.scaleb(_POWERS[suffix])
    return number.scaleb(int(suffix[1:] or "0"))
