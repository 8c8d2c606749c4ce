"""Texts from elsewhere, made fit for a terminal and a page."""

from __future__ import annotations

from typing import Final

_JOINERS: Final = "\u200c\u200d"  # not printable, and part of how some scripts and emoji are written


def printable(text: str) -> str:
    """A text without what a terminal obeys or an eye does not see (controls, escapes, turned direction)."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in _JOINERS else " " for one in text)
