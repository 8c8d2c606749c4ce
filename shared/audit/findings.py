"""What an audit finds: one finding a check, under one of the twelve clauses, with the lines that show it.

A finding holds values, not sentences: ``texts.py`` says each in English and in Chinese.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Outcome = Literal["pass", "fail", "cannot tell"]
Value = str | int | float | None

OUTCOMES: Final[tuple[Outcome, ...]] = ("fail", "cannot tell", "pass")  # the worst first
EXIT_CODES: Final[Mapping[Outcome, int]] = {"pass": 0, "fail": 3, "cannot tell": 4}
CLAUSES: Final[Mapping[int, str]] = {
    1: "claim",
    2: "unit",
    3: "accesses",
    4: "recipients",
    5: "events",
    6: "accountant",
    7: "ledger",
    8: "persons",
    9: "empirical",
    10: "hazards",
    11: "verdict",
    12: "officer",
}


@dataclass(frozen=True)
class Place:
    """Where a finding is seen.

    Attributes:
        file: as the auditor named it, or relative to the run's folder.
        lines: 1-based; at most the first few of many; empty = the file as a whole.
    """

    file: str
    lines: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        clause: 1 to 12 (``CLAUSES``).
        check: its name; with the outcome it is the key of its sentence in ``texts.py``.
        outcome: "cannot tell" = the evidence does not decide it.
        values: what the sentence speaks of.
        places: the evidence.
    """

    clause: int
    check: str
    outcome: Outcome
    values: Mapping[str, Value] = field(default_factory=dict)
    places: tuple[Place, ...] = ()


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several together; nothing checked is nothing told."""
    found = set(outcomes)
    return next((outcome for outcome in OUTCOMES if outcome in found), "cannot tell")
