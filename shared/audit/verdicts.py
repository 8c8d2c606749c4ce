"""How a check that looks at many places becomes one finding: the first place in words, the first few as evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.audit.findings import Finding, Outcome, Place, Value

SHOWN: Final = 5  # places that a finding names


@dataclass(frozen=True, slots=True)
class Wrong:
    """One place where a check fails.

    Attributes:
        values: what the sentence says of it, beside ``count``.
    """

    file: str
    line: int
    values: Mapping[str, Value] = field(default_factory=dict)


def ledger(check: str, outcome: Outcome, places: Sequence[Place] = (), **values: Value) -> Finding:
    """A finding of clause 7."""
    return Finding(7, check, outcome, values, tuple(places))


def judged(check: str, wrong: Sequence[Wrong], **values: Value) -> Finding:
    """Pass with ``values`` where nothing is wrong; else fail, as the first place has it, and how many there are."""
    if not wrong:
        return Finding(7, check, "pass", values)
    return Finding(7, check, "fail", {**wrong[0].values, "count": len(wrong)}, places_of(wrong))


def places_of(wrong: Sequence[Wrong]) -> tuple[Place, ...]:
    """The first few places, the lines of one file together."""
    lines: dict[str, list[int]] = {}
    for one in wrong[:SHOWN]:
        lines.setdefault(one.file, []).append(one.line)
    return tuple(Place(file, tuple(sorted(set(found)))) for file, found in lines.items())
