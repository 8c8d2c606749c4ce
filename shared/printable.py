"""Texts from elsewhere, made fit for a terminal and a page; and upper bounds as texts."""

from __future__ import annotations

import math
from typing import Final

_JOINERS: Final = "\u200c\u200d"  # not printable, and part of how some scripts and emoji are written


def printable(text: str) -> str:
    """A text without what a terminal obeys or an eye does not see (controls, escapes, turned direction)."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in _JOINERS else " " for one in text)


def rounded_up(epsilon: float) -> str:
    """To two decimals, never down: an upper bound stays one."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}" if math.isfinite(epsilon) else "infinite"
