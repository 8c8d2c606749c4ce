"""Short ways to write a finding down, and what several checks ask of the evidence alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from shared.audit.evidence import Charge, Evidence, ServerLog, Standing
from shared.audit.findings import Finding, Outcome, Place, Value
from shared.privacy.plan import RELEASES, PrivacyPlan, Release

FEW: Final = 5  # lines that a finding names of many
CLOSE: Final = 1e-9  # relative; a ledger holds doubles in full


def found(clause: int, check: str, outcome: Outcome, places: Iterable[Place] = (), **values: Value) -> Finding:
    """A finding."""
    return Finding(clause, check, outcome, values, tuple(places))


def at(file: str, lines: Iterable[int] = ()) -> tuple[Place, ...]:
    """The first few lines of a file, in order, each once."""
    return (Place(file, tuple(sorted(set(lines))[:FEW])),)


def close(one: float, other: float) -> bool:
    """Whether two numbers are the same up to rounding; a NaN is never the same as anything."""
    return math.isclose(one, other, rel_tol=CLOSE)


def kinds_named(e: Evidence) -> dict[str, tuple[Place, ...]]:
    """Every kind of run that a ledger or the summary names -> where; runs that are not the server's are left out."""
    named: dict[str, tuple[Place, ...]] = {}

    def note(kind: object, places: tuple[Place, ...]) -> None:
        if kind is not None:
            named.setdefault(short(kind), places)

    if e.server is not None:
        note(e.server.kind, at(e.server.file, [1]))
        note(None if e.server.plan is None else e.server.plan.kind, at(e.server.file, [1]))
    for log in e.clients:
        for pin in log.pins:
            if e.server is None or pin.run == e.server.run:
                note(pin.kind, at(log.file, [pin.line]))
                note(None if pin.plan is None else pin.plan.kind, at(log.file, [pin.line]))
    if e.printed is not None:
        note(e.printed.content.get("kind"), at(e.printed.file))
    return named


def standing_of(e: Evidence) -> Standing:
    """What the evidence is judged as: the one kind that everything names; "unknown" where it does not agree."""
    named = set(kinds_named(e))
    if named == {"simulation"}:
        return "simulation"
    return "deployment" if named == {"deployment"} else "unknown"


def plan_of(e: Evidence) -> PrivacyPlan | None:
    """The server's plan; without its ledger, the plan that every pin names, if they agree."""
    if e.server is not None:
        return e.server.plan
    plans = {pin.plan for log in e.clients for pin in log.pins}
    return plans.pop() if len(plans) == 1 else None


def charge_of(server: ServerLog) -> dict[tuple[int, int, Release], Charge]:
    """(round, attempt, kind of release) -> the first charge of that name."""
    made: dict[tuple[int, int, Release], Charge] = {}
    for charge in server.charges:
        made.setdefault((charge.round, charge.attempt, charge.release), charge)
    return made


def most_charged(server: ServerLog) -> dict[Release, int]:
    """How often the client that was asked most often was asked, by kind of release."""
    counts: dict[Release, dict[str, int]] = {kind: {} for kind in RELEASES}
    for charge in server.charges:
        used = counts[charge.release]
        for client in charge.cohort:
            used[client] = used.get(client, 0) + 1
    return {kind: max(used.values(), default=0) for kind, used in counts.items()}


def printed(e: Evidence, name: str) -> object:
    """A field of the summary; None = no summary, or no such field."""
    return None if e.printed is None else e.printed.content.get(name)


def short(value: object, most: int = 40) -> str:
    """A value of a JSON file in a few letters; of a list or an object, which may be deep, that it is one."""
    return type(value).__name__ if isinstance(value, list | dict) else str(value)[:most]


def number(value: object) -> float | None:
    """A finite or infinite number of a JSON file; None = anything else, a NaN included."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:  # noqa: PLR0124 - NaN
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def claimed_of(e: Evidence) -> float | None:
    """The epsilon that people are told: the summary's, else the plan's; None = no claim."""
    plan, told = plan_of(e), number(printed(e, "epsilon"))
    return told if told is not None or plan is None else plan.epsilon


def plan_place(e: Evidence) -> tuple[Place, ...]:
    """Where the plan stands: the server's first line; without its ledger, the first pin."""
    if e.server is not None:
        return at(e.server.file, [1])
    return tuple(place for log in e.clients[:1] for pin in log.pins[:1] for place in at(log.file, [pin.line]))
