"""What a vault says of itself: what it holds, and what a forgetting did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What a vault holds.

    Attributes:
        events: how many.
        by_kind: kind -> how many.
        oldest, newest: unix seconds, None where there is none.
        bytes: on disk.
    """

    events: int
    by_kind: Mapping[str, int]
    oldest: float | None
    newest: float | None
    bytes: int


@dataclass(frozen=True)
class Forgotten:
    """What one forgetting did, and what was looked at to prove it.

    Attributes:
        events: that are gone.
        left: events that stay.
        rows_before, rows_after: sealed pages.
        ciphertexts: those that were in the vault before, the head among them; all of them were replaced.
        probes: pieces of them that were looked for, 8 bytes of every 256.
        searched: bytes of the database, its log and its index that were looked through.
        found: pieces that were there; 0.
    """

    events: int
    left: int
    rows_before: int
    rows_after: int
    ciphertexts: int
    probes: int
    searched: int
    found: int
